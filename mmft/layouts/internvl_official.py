"""OpenGVLab's own layout (``InternVLChatModel``): InternVL2 as published, read as data, its Python files ignored.

Sources: ``configuration_internvl_chat.py`` and ``modeling_internvl_chat.py`` of OpenGVLab/InternVL.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmft.errors import CheckpointError, ConfigError
from mmft.files.directory import ModelDirectory
from mmft.layouts.base import Layout, Rule
from mmft.layouts.language import has_head, language_model, llm_rules
from mmft.models.language.family import families, held_by

__all__ = ['InternVLOfficial']

VISION_DEFAULTS = {
    'hidden_size': 3200, 'num_hidden_layers': 48, 'num_attention_heads': 25, 'intermediate_size': 12800,
    'image_size': 224, 'patch_size': 14, 'qkv_bias': False, 'qk_normalization': True, 'norm_type': 'rms_norm',
    'layer_norm_eps': 1e-6, 'hidden_act': 'gelu', 'dropout': 0.0, 'attention_dropout': 0.0, 'drop_path_rate': 0.0,
    'initializer_factor': 0.1, 'initializer_range': 0.02,
}  # fmt: skip
"""What ``vision_config`` holds, and what the original (``InternVisionConfig``) takes where an entry is left out."""


class InternVLOfficial(Layout):
    """The layout of OpenGVLab/InternVL2-* directories.

    Args:
        model: mmft's ``model`` dict.
        options: the entries of ``config.json`` that concern pictures and prompts.
    """

    architecture = 'InternVLChatModel'

    def __init__(self, model: dict[str, Any], options: dict[str, Any] | None = None) -> None:
        self._model, self.options = model, options or {}

    @classmethod
    def from_config(cls, config: dict[str, Any], directory: ModelDirectory | None = None) -> InternVLOfficial:
        vision, llm = config['vision_config'], config['llm_config']
        kinds = {family.architecture: kind for kind, family in held_by('internvl_official').items()}
        kind = kinds.get((llm.get('architectures') or [None])[0])
        if kind is None:
            raise CheckpointError(
                f'llm_config.architectures = {llm.get("architectures")}', expected=f'one of {sorted(kinds)}'
            )
        tie = bool(llm.get('tie_word_embeddings')) and directory is not None
        tower = {key: vision.get(key, default) for key, default in VISION_DEFAULTS.items()}
        model = {
            'type': 'VLM',
            'vision': {'type': 'InternViT', **tower, 'select_layer': config.get('select_layer', -1)},
            'projector': {
                'type': 'PixelShuffleMLP',
                'scale': config.get('downsample_ratio', 0.5),
                # The original's config default is v1; every published InternVL2 says v2 in its file.
                'version': config.get('ps_version', 'v1'),
            },
            # InternVLChatConfig forces tie_word_embeddings to False for every language model, so a head in the file is
            # taken. One that no file holds was left out by safetensors, because it is the embedding itself.
            'llm': language_model(llm, 'llm_config', kind, tie=tie and not has_head(kind, directory.tensors)),
        }
        return cls(model, config)

    @classmethod
    def from_model(cls, model_config: dict[str, Any]) -> InternVLOfficial:
        kinds = (model_config['vision']['type'], model_config['projector']['type'], model_config['llm']['type'])
        held = held_by('internvl_official')
        if kinds[:2] != ('InternViT', 'PixelShuffleMLP') or kinds[2] not in held:
            raise ConfigError(
                f'the official InternVL2 layout cannot hold {" + ".join(kinds)}',
                expected=f'InternViT + PixelShuffleMLP + one of {sorted(held)}',
                fix='use --layout hf',
            )
        return cls(model_config)

    @property
    def model_config(self) -> dict[str, Any]:
        return self._model

    def encoder_config(self, directory: Path) -> dict[str, Any]:
        get = self.options.get
        size = get('force_image_size') or self._model['vision']['image_size']
        if get('dynamic_image_size', False):
            tiler = {
                'type': 'DynamicTiler',
                'tile_size': size,
                'min_tiles': get('min_dynamic_patch', 1),
                'max_tiles': get('max_dynamic_patch', 6),
                'thumbnail': get('use_thumbnail', False),
            }
        else:
            tiler = {'type': 'PadSquare' if get('pad2square') else 'Resize', 'tile_size': size}
        template = get('template') or families()[self._model['llm']['type']].internvl_template
        return {'type': 'ChatEncoder', 'template': template, 'image_processor': tiler}

    @property
    def rules(self) -> list[Rule]:
        return [
            Rule('vision_model.{x}', 'vision.{x}'),
            Rule('mlp1.{x}', 'projector.mlp.{x}'),
            *llm_rules(self._model['llm'], 'language_model.'),
        ]
