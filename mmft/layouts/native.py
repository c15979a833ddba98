"""mmft's own layout (``MMFTForConditionalGeneration``): any model, tensors under the names they have in the model.

``config.json`` holds the ``model`` dict of the config, and under ``code`` the modules of parts that are not mmft's. No
other program reads it; it is there for models that no published class can hold, such as a mixture-of-experts projector.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmft.errors import ConfigError
from mmft.files.directory import ModelDirectory
from mmft.layouts.base import Layout
from mmft.layouts.llava_encoder import llava_encoder
from mmft.layouts.rules import Rule
from mmft.layouts.small_files import Contents
from mmft.plain_json import model_json
from mmft.registry import MODELS
from mmft.user_code import code_of, require_code

__all__ = ['Native']


class Native(Layout):
    """Every combination of parts, as it is."""

    architecture = 'MMFTForConditionalGeneration'
    option = 'native'
    readers = 'mmft reads'

    @classmethod
    def from_config(cls, config: dict[str, Any], directory: ModelDirectory | None = None) -> Native:
        require_code(config.get('code'), directory.path if directory is not None else 'config.json')
        return cls(_checked(config['model']))

    @classmethod
    def from_model(cls, model_config: dict[str, Any]) -> Native:
        return cls(model_config)

    def encoder_config(self, directory: Path) -> dict[str, Any]:
        # Directories that mmft writes hold encoder.json; this is for one that lost it.
        vision = self._model['vision']
        return llava_encoder(self._model, {'type': 'Resize', 'tile_size': vision.get('image_size', 336)})

    @property
    def rules(self) -> list[Rule]:
        return [Rule('{x}', '{x}')]

    def check(self, contents: Contents) -> None:
        self.config_json(contents)  # refuses a model dict that JSON cannot hold

    def config_json(self, contents: Contents) -> dict[str, Any]:
        model = {**contents.model_config, 'image_token_id': contents.image_token_id}
        code = code_of(model)
        return {
            'architectures': [self.architecture],
            'model_type': 'mmft',
            'dtype': contents.dtype,
            **({'code': code} if code else {}),
            'model': model_json(model),
        }


def _checked(model: Any) -> dict[str, Any]:
    """The ``model`` dict of a ``config.json``, if it is one: what reads it further takes its parts for granted."""
    kind = model.get('type') if isinstance(model, dict) else None
    if MODELS.get(kind) is None:
        raise MODELS.unknown(kind)
    if missing := [part for part in ('vision', 'projector', 'llm') if not isinstance(model.get(part), dict)]:
        raise ConfigError(f'`model` has no dict {" and ".join(map(repr, missing))}', fix='download config.json again')
    return model
