"""OpenGVLab's own layout (``InternVLChatModel``): InternVL2 to 3.5 as published, read as data, Python files ignored.

Sources: ``configuration_internvl_chat.py`` and ``modeling_internvl_chat.py`` of OpenGVLab/InternVL.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmft.backends import Support
from mmft.errors import ConfigError
from mmft.files.directory import ModelDirectory
from mmft.json_files import read_json
from mmft.layouts.base import Layout, refuse
from mmft.layouts.language import has_head, language_model, llm_rules, not_held, published_config
from mmft.layouts.rules import Rule
from mmft.layouts.small_files import Contents, llm_ids
from mmft.layouts.vision import INTERNVIT_DEFAULTS
from mmft.models.language.family import families, held_by
from mmft.models.normalizer import IMAGENET_MEAN, IMAGENET_STD

__all__ = ['InternVLOfficial']

_AUTO_MAP = {
    'AutoConfig': 'configuration_internvl_chat.InternVLChatConfig',
    'AutoModel': 'modeling_internvl_chat.InternVLChatModel',
    'AutoModelForCausalLM': 'modeling_internvl_chat.InternVLChatModel',
}


class InternVLOfficial(Layout):
    """The layout of OpenGVLab/InternVL2-*, InternVL2_5-*, InternVL3-* and InternVL3_5-* directories.

    Args:
        model: mmft's ``model`` dict.
        options: the entries of ``config.json`` that concern pictures and prompts.
    """

    architecture = 'InternVLChatModel'
    option = 'official'
    llm_section = 'llm_config'
    unties = True  # InternVLChatConfig sets tie_word_embeddings to False for every language model

    @classmethod
    def from_config(cls, config: dict[str, Any], directory: ModelDirectory | None = None) -> InternVLOfficial:
        vision, llm = config['vision_config'], config['llm_config']
        kinds = {family.architecture: kind for kind, family in held_by('internvl_official').items()}
        kind = kinds.get((llm.get('architectures') or [None])[0])
        if kind is None:
            raise not_held('llm_config.architectures', llm.get('architectures'), kinds)
        tie = bool(llm.get('tie_word_embeddings')) and directory is not None
        tower = {key: vision.get(key, default) for key, default in INTERNVIT_DEFAULTS.items()}
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

    @classmethod
    def support(cls) -> list[Support]:
        return [
            Support(
                cls.option, cls.architecture, family.architecture, (kind,), turbomind=family.turbomind,
                pytorch=family.pytorch, transformers='transformers has no such class', remote_code=True,
            )
            for kind, family in held_by('internvl_official').items()
        ]  # fmt: skip

    @classmethod
    def limited_support(cls, row: Support, config: Mapping[str, Any]) -> Support:
        if config.get('select_layer', -1) != -1:
            why = f"LMDeploy takes the last layer's features, the model those of layer {config['select_layer']}"
            return replace(row, turbomind=why, pytorch=why)
        if config.get('pad2square'):
            why = 'LMDeploy stretches pictures that the model knows padded to squares'
            return replace(row, turbomind=why, pytorch=why)
        if config.get('ps_version') != 'v2' and not row.turbomind:
            return replace(row, turbomind=f'TurboMind has pixel shuffle v2 only, the model {config.get("ps_version")}')
        return row

    def check(self, contents: Contents) -> None:
        kind = contents.tiler.get('type', 'Resize')
        problems = contents.pixel_problems('InternViT')
        if kind not in ('DynamicTiler', 'PadSquare', 'Resize'):
            problems.append(f'{kind}: it has DynamicTiler, PadSquare and Resize')
        refuse('the official InternVL2 layout', problems)

    def config_json(self, contents: Contents) -> dict[str, Any]:
        model, dtype = contents.model, contents.dtype
        vision = {'num_hidden_layers': len(model.vision.layers), 'num_channels': 3}
        vision |= {name: getattr(model.vision, name) for name in INTERNVIT_DEFAULTS if name not in vision}
        own = {
            'architectures': [self.architecture],
            'model_type': 'internvl_chat',
            'torch_dtype': dtype,
            'tie_word_embeddings': False,
            'downsample_ratio': model.projector.scale,
            'ps_version': model.projector.version,
            'select_layer': model.vision.select_layer,
            'force_image_size': model.vision.image_size,
            **(_tiler_options(contents) if contents.encoder is not None else {}),
        }
        # What mmft does not know of a base of this layout stays.
        original = _original(contents) or {'auto_map': _AUTO_MAP, 'use_backbone_lora': 0, 'use_llm_lora': 0}
        plain_vision = {'architectures': ['InternVisionModel'], 'model_type': 'intern_vit_6b'}
        language = _llm_config(contents)
        before = original.get('llm_config', {})
        if before.get('architectures') == language['architectures']:
            language = {**before, **language}
        return {
            **original,
            **own,
            'vision_config': {**plain_vision, **original.get('vision_config', {}), **vision, 'torch_dtype': dtype},
            'llm_config': language,
        }

    def small_files(self, contents: Contents, config: dict[str, Any]) -> dict[str, dict[str, Any]]:
        if contents.encoder is None:
            return {}
        side = config['force_image_size']
        processor = {
            'image_processor_type': 'CLIPImageProcessor',
            'feature_extractor_type': 'CLIPFeatureExtractor',
            'do_resize': True,
            'size': side,
            'resample': 3,
            'do_center_crop': True,
            'crop_size': side,
            'do_normalize': True,
            'image_mean': list(IMAGENET_MEAN),
            'image_std': list(IMAGENET_STD),
        }
        return {'preprocessor_config.json': processor}

    def write_files(self, directory: Path, contents: Contents) -> None:
        super().write_files(directory, contents)
        # The Python files that LMDeploy wants there (--trust-remote-code); mmft never imports them.
        for file in sorted(contents.base.glob('*.py')) if _original(contents) else ():
            shutil.copyfile(file, directory / file.name)


def _original(contents: Contents) -> dict[str, Any]:
    """The base's ``config.json`` where it is of this layout; empty for others."""
    config = read_json(contents.base / 'config.json') if contents.base is not None else {}
    return config if config.get('architectures') == [InternVLOfficial.architecture] else {}


def _tiler_options(contents: Contents) -> dict[str, Any]:
    tiler = contents.tiler or {'type': 'Resize'}
    options = {
        'template': contents.encoder.template.name,
        'dynamic_image_size': tiler['type'] == 'DynamicTiler',
        'pad2square': tiler['type'] == 'PadSquare',
    }
    if 'tile_size' in tiler:
        options['force_image_size'] = tiler['tile_size']
    if tiler['type'] == 'DynamicTiler':
        options |= {
            'min_dynamic_patch': tiler['min_tiles'],
            'max_dynamic_patch': tiler['max_tiles'],
            'use_thumbnail': tiler['thumbnail'],
        }
    return options


def _llm_config(contents: Contents) -> dict[str, Any]:
    """``llm_config`` in the language model's own terms, as its original configuration class takes it."""
    llm = contents.model.llm
    return {
        **published_config(type(llm).__name__, llm.lm.config),
        'torch_dtype': contents.dtype,
        'tie_word_embeddings': False,
        **llm_ids(llm.lm.config.to_dict(), contents.encoder),
    }
