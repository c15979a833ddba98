"""Names in trainings of XTuner 0.1: what XTuner, and the originals that it wraps, call the tensors of a model.

Source: ``xtuner/model/{llava,internvl}.py`` of InternLM/xtuner 0.1.23.
"""

from __future__ import annotations

from typing import Any

from mmft.layouts.internvl_official import InternVLOfficial
from mmft.layouts.language import llm_rules
from mmft.layouts.projectors import any_projector_rules
from mmft.layouts.rules import NameTable, Rule
from mmft.layouts.vision import tower_ignored, tower_rules

__all__ = ['XTunerNames']


class XTunerNames(NameTable):
    """What XTuner, and the originals that it wraps, call the tensors of a model."""

    architecture = 'a training of XTuner'

    def __init__(self, model: dict[str, Any]) -> None:
        self._model = model
        kind = model['vision']['type']
        self.ignored = (*NameTable.ignored, *tower_ignored(kind, 'visual_encoder.'), 'data_preprocessor.{x}')

    @property
    def rules(self) -> list[Rule]:
        model = self._model
        if model['projector']['type'] == 'PixelShuffleMLP':
            own = InternVLOfficial(model).rules
            return [*(Rule(f'model.{rule.theirs}', rule.ours, rule.split, rule.join) for rule in own), *own]
        tower = model['vision']['type']
        return [
            *any_projector_rules(model['projector']['type']),
            *tower_rules(tower, 'visual_encoder.'),
            *tower_rules(tower, 'model.vision_tower.vision_tower.'),
            *llm_rules(model['llm'], 'llm.'),
            Rule('model.{x}', 'llm.lm.model.{x}'),
            Rule('lm_head.{k}', 'llm.lm.lm_head.{k}'),
        ]

    @property
    def model_config(self) -> dict[str, Any]:
        return self._model
