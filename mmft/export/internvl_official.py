"""OpenGVLab's directory: ``InternVLChatModel``, which LMDeploy serves with ``--trust-remote-code``.

The Python files LMDeploy wants there are copied from the base directory as they are; mmft never imports them.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from mmft.errors import ConfigError
from mmft.export.files import Contents, generation_config, llm_ids, write_encoder, write_json
from mmft.files.tensors import read_json
from mmft.layouts.adjust import Fit
from mmft.layouts.internvl_official import VISION_DEFAULTS
from mmft.layouts.language import published_config
from mmft.models.vlm import IMAGENET_MEAN, IMAGENET_STD

__all__ = ['UNTIE', 'check', 'fits', 'model_config', 'write_files']

UNTIE = True  # InternVLChatConfig sets tie_word_embeddings to False for every language model

_AUTO_MAP = {
    'AutoConfig': 'configuration_internvl_chat.InternVLChatConfig',
    'AutoModel': 'modeling_internvl_chat.InternVLChatModel',
    'AutoModelForCausalLM': 'modeling_internvl_chat.InternVLChatModel',
}


def llm_config(contents: Contents) -> dict[str, Any]:
    """``llm_config`` in the language model's own terms, as its original configuration class takes it."""
    llm = contents.model.llm
    return {
        **published_config(type(llm).__name__, llm.lm.config),
        'torch_dtype': contents.dtype,
        'tie_word_embeddings': False,
        **llm_ids(llm.lm.config.to_dict(), contents.encoder),
    }


def model_config(contents: Contents, original: dict[str, Any] | None = None) -> dict[str, Any]:
    """``config.json``.

    Args:
        original: the base's own ``config.json`` where it is of this layout: what mmft does not know of it stays.
    """
    model, dtype = contents.model, contents.dtype
    vision = {'num_hidden_layers': len(model.vision.layers), 'num_channels': 3}
    vision |= {name: getattr(model.vision, name) for name in VISION_DEFAULTS if name not in vision}
    own = {
        'architectures': ['InternVLChatModel'],
        'model_type': 'internvl_chat',
        'torch_dtype': dtype,
        'tie_word_embeddings': False,
        'downsample_ratio': model.projector.scale,
        'ps_version': model.projector.version,
        'select_layer': model.vision.select_layer,
        'force_image_size': model.vision.image_size,
        **(_tiler_options(contents) if contents.encoder is not None else {}),
    }
    original = original or {'auto_map': _AUTO_MAP, 'use_backbone_lora': 0, 'use_llm_lora': 0}
    plain_vision = {'architectures': ['InternVisionModel'], 'model_type': 'intern_vit_6b'}
    language = llm_config(contents)
    before = original.get('llm_config', {})
    if before.get('architectures') == language['architectures']:
        language = {**before, **language}
    return {
        **original,
        **own,
        'vision_config': {**plain_vision, **original.get('vision_config', {}), **vision, 'torch_dtype': dtype},
        'llm_config': language,
    }


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


def check(contents: Contents) -> None:
    """Raises ``ConfigError`` for what OpenGVLab's code does not do with pictures."""
    kind = contents.tiler.get('type', 'Resize')
    problems = contents.pixel_problems('InternViT')
    if kind not in ('DynamicTiler', 'PadSquare', 'Resize'):
        problems.append(f'{kind}: it has DynamicTiler, PadSquare and Resize')
    if problems:
        raise ConfigError.gather([f'the official InternVL2 layout cannot hold {p}' for p in problems])


def fits(contents: Contents) -> dict[str, Fit]:
    """No tensor needs fitting: the original classes have a place for everything."""
    return {}


def write_files(directory: Path, contents: Contents) -> None:
    """Everything but the weights. Python files and unknown settings of a base of this layout go along."""
    base, encoder = contents.base, contents.encoder
    original = read_json(base / 'config.json') if base is not None else {}
    original = original if original.get('architectures') == ['InternVLChatModel'] else None
    config = model_config(contents, original)
    write_json(directory / 'config.json', config)
    ids = llm_ids(config['llm_config'], encoder)
    write_json(directory / 'generation_config.json', generation_config(ids, encoder))
    if original is not None:
        for file in sorted(base.glob('*.py')):
            shutil.copyfile(file, directory / file.name)
    if encoder is None:
        return
    write_encoder(directory, encoder, {}, encoder.image_start + encoder.image_token + encoder.image_end)
    side = config['force_image_size']
    write_json(
        directory / 'preprocessor_config.json',
        {
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
        },
    )
