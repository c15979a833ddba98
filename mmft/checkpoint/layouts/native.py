"""mmft's own layout (``MMFTForConditionalGeneration``): any model, tensors under the names they have in the model.

``config.json`` holds the ``model`` dict of the config, and under ``code`` the modules of parts that are not mmft's. No
other program reads it; it is there for models that no published class can hold, such as a mixture-of-experts projector.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmft.checkpoint.directory import ModelDirectory
from mmft.checkpoint.layouts.base import Layout, Rule
from mmft.checkpoint.layouts.llava_official import llava_encoder
from mmft.own_code import require_code

__all__ = ['Native']


class Native(Layout):
    """Every combination of parts, as it is."""

    architecture = 'MMFTForConditionalGeneration'

    def __init__(self, model: dict[str, Any]) -> None:
        self._model = model

    @classmethod
    def from_config(cls, config: dict[str, Any], directory: ModelDirectory | None = None) -> Native:
        require_code(config.get('code'), directory.path if directory is not None else 'config.json')
        return cls(config['model'])

    @classmethod
    def from_model(cls, model_config: dict[str, Any]) -> Native:
        return cls(model_config)

    @property
    def model_config(self) -> dict[str, Any]:
        return self._model

    def encoder_config(self, directory: Path) -> dict[str, Any]:
        # Directories that mmft writes hold encoder.json; this is for one that lost it.
        vision = self._model['vision']
        return llava_encoder(self._model, {'type': 'Resize', 'tile_size': vision.get('image_size', 336)})

    @property
    def rules(self) -> list[Rule]:
        return [Rule('{x}', '{x}')]
