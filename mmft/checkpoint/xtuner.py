"""Trainings of XTuner 0.1, read as weights to start from: ``iter_N.pth``, a file of mmengine or a folder of DeepSpeed.

Such a checkpoint holds what was trained: a projector, whole parts, LoRA. LoRA on InternLM2's packed rows is split
exactly: its A belongs to query, key and value alike, and its B is split as the weight is. The folders that DeepSpeed
writes for LLaVA's and other trainers (``global_stepN``) are read the same way.

Sources: ``xtuner/model/{llava,internvl}.py`` of InternLM/xtuner 0.1.23; ``mmengine/runner/runner.py``;
``deepspeed/runtime/engine.py``.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from mmft.errors import CheckpointError
from mmft.files.foreign_checkpoints import STATES, foreign_content, is_deepspeed, of_mmengine
from mmft.files.peft_adapter import lora_layers
from mmft.layouts.xtuner import XTunerNames
from mmft.models.tuning import part_of
from mmft.python_text import literal

__all__ = ['Trained', 'read_trained']

_LORA = {'llm': 'llm_lora', 'vision': 'visual_encoder_lora'}
"""Where XTuner's config has the settings of each part's LoRA."""


class Trained(NamedTuple):
    """What a training wrote, under mmft's names.

    Attributes:
        tensors: trained as a whole.
        adapters: module -> (r,in), (out,r) and the scale of their product.
    """

    tensors: dict[str, Tensor]
    adapters: dict[str, tuple[Tensor, Tensor, float]]


def read_trained(path: Path, model_config: Mapping[str, Any]) -> Trained | None:
    """The weights of a checkpoint of XTuner or DeepSpeed; None where it is neither.

    Args:
        model_config: the ``model`` dict that they are for.

    Raises:
        CheckpointError: shards of ZeRO-3, LoRA whose scale nothing says, or tensors that no part has a name for.
    """
    if is_deepspeed(path):
        if not (path / STATES).is_file():
            raise CheckpointError(
                f'{path} holds the pieces of a ZeRO-3 training, no whole tensor',
                expected='weights that are put together',
                fix='run zero_to_fp32.py in it, or `xtuner convert pth_to_hf CONFIG PTH OUT`: name what that writes',
            )
        content = foreign_content(path / STATES)
        state = content.get('module') if isinstance(content, Mapping) else None
    else:
        content = of_mmengine(path) or {}
        state = content.get('state_dict')
    if not isinstance(state, Mapping):
        return None
    tensors = {key: value for key, value in state.items() if isinstance(key, str) and isinstance(value, Tensor)}
    layers, others = lora_layers(tensors)
    layout = XTunerNames(dict(model_config))
    found: dict[str, Tensor] = {}
    for step in layout.to_ours(others):
        found |= step(lambda name: tensors[others[name]])
    text = (content.get('meta') or {}).get('cfg') if isinstance(content.get('meta') or {}, Mapping) else None
    adapters: dict[str, tuple[Tensor, Tensor, float]] = {}
    for step in layout.to_ours([f'{module}.weight' for module in layers]):
        (module,) = (name.removesuffix('.weight') for name in step.inputs)
        names = layers[module]
        if set(names) != {'lora_A', 'lora_B'}:
            raise CheckpointError(f'{path}: {module} has {sorted(names)}', expected="['lora_A', 'lora_B']")
        a, b = tensors[names['lora_A']], tensors[names['lora_B']]
        scale = _scale(text, part_of(step.outputs[0]), len(a), path)
        pieces = step.convert(b) if step.convert else [b]
        for name, piece in zip(step.outputs, pieces, strict=True):
            adapters[name.removesuffix('.weight')] = (a, piece, scale)
    return Trained(found, adapters)


def _scale(text: Any, part: str, rank: int, path: Path) -> float:
    """Alpha / r as the config that is stored with the weights says it; the text is read, not run."""
    settings = _settings_of(text, _LORA.get(part, ''))
    if settings.get('use_dora') or not isinstance(settings.get('lora_alpha'), (int, float)):
        raise CheckpointError(
            f'{path}: LoRA of {part}, and no config of XTuner inside that says its lora_alpha'
            if not settings.get('use_dora')
            else f'{path}: DoRA of {part}',
            expected='LoRA, and its scale',
            fix='write adapter directories with `xtuner convert pth_to_hf CONFIG PTH OUT`: mmft reads those',
        )
    return settings['lora_alpha'] / (math.sqrt(rank) if settings.get('use_rslora') else rank)


def _settings_of(text: Any, name: str) -> dict[str, Any]:
    """The literal arguments of ``name=dict(...)`` anywhere in Python text."""
    try:
        tree = ast.parse(text) if isinstance(text, str) else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    for node in ast.walk(tree) if tree is not None else ():
        if isinstance(node, ast.keyword) and node.arg == name and isinstance(node.value, ast.Call):
            found: dict[str, Any] = {}
            for keyword in node.value.keywords:
                with suppress(ValueError, TypeError, RecursionError):
                    found[keyword.arg] = literal(keyword.value)
            return found
    return {}
