"""LLaVA's own directory: ``LlavaLlamaForCausalLM`` or ``LlavaMistralForCausalLM``, for haotian-liu/LLaVA's programs.

The vision tower's weights and, in ``vision_config.json``, its numbers go along, so that ``mmft.load`` needs nothing
beside the directory; the original programs take the tower that ``mm_vision_tower`` names and put these weights over it.

Sources: ``llava/model/builder.py``, ``llava/mm_utils.py`` and ``multimodal_encoder/clip_encoder.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmft.errors import ConfigError
from mmft.export.files import (
    Contents,
    generation_config,
    llm_ids,
    older_config,
    plain_config,
    write_encoder,
    write_json,
)
from mmft.files.tensors import read_json
from mmft.layouts.adjust import Fit
from mmft.layouts.vision import KNOWN_TOWERS

__all__ = ['UNTIE', 'check', 'fits', 'model_config', 'write_files']

UNTIE = False
_ASPECT = {'PadSquare': 'pad', 'CenterCrop': 'square', 'AnyResTiler': 'anyres'}
_STARTS = ('<im_start>', '<im_end>')


def model_config(contents: Contents) -> dict[str, Any]:
    """``config.json``: the language model's fields, and LLaVA's."""
    model, tiler, encoder = contents.model, contents.tiler, contents.encoder
    kind = type(model.llm).__name__
    llm = older_config(model.llm.lm.config)
    config = {
        **llm,
        **llm_ids(llm, encoder),
        'architectures': [f'Llava{kind}ForCausalLM'],
        'model_type': f'llava_{kind.lower()}',
        'torch_dtype': contents.dtype,
        'mm_vision_tower': tower_name(contents),
        'mm_hidden_size': model.vision.hidden_size,
        'mm_vision_select_layer': model.vision.select_layer,
        'mm_vision_select_feature': model.vision.select_feature,
        'mm_projector_type': projector_name(contents),
        'mm_patch_merge_type': 'flat' if model.merge is None else model.merge.mode,
        'mm_use_im_start_end': encoder is not None and (encoder.image_start, encoder.image_end) == _STARTS,
        'mm_use_im_patch_token': False,
        'use_mm_proj': True,
        'unfreeze_mm_vision_tower': True,  # the weights hold the tower
        'image_aspect_ratio': _ASPECT.get(tiler.get('type'), 'square'),
    }
    config.pop('dtype', None)
    if 'grid_pinpoints' in tiler:
        config['image_grid_pinpoints'] = [list(size) for size in tiler['grid_pinpoints']]
    return config


def tower_name(contents: Contents) -> str:
    """``mm_vision_tower``: as the base says, or the published tower that has these numbers."""
    if contents.base is not None and (contents.base / 'config.json').is_file():
        named = read_json(contents.base / 'config.json').get('mm_vision_tower')
        if named:
            return named
    numbers = contents.model.vision.tower.config.to_dict()
    same = (name for name, known in KNOWN_TOWERS.items() if all(numbers.get(k) == v for k, v in known.items()))
    return next(same, 'clip')


def projector_name(contents: Contents) -> str:
    """``mm_projector_type``."""
    projector = contents.model.projector
    return f'mlp{projector.depth}x_gelu' if hasattr(projector, 'depth') else type(projector).__name__.lower()


def check(contents: Contents) -> None:
    """Raises ``ConfigError`` for what the original programs do not do with pictures."""
    encoder, kind = contents.encoder, contents.tiler.get('type')
    problems = contents.pixel_problems('CLIP')
    if kind is not None and kind not in _ASPECT:
        problems.append(f'{kind}: it has {", ".join(_ASPECT)}')
    if encoder is not None and (encoder.image_start, encoder.image_end) not in (_STARTS, ('', '')):
        problems.append(
            f'{encoder.image_start!r} and {encoder.image_end!r} around pictures: it has {_STARTS[0]} and {_STARTS[1]}'
        )
    if problems:
        raise ConfigError.gather([f"LLaVA's own layout cannot hold {p}; use --layout native" for p in problems])


def fits(contents: Contents) -> dict[str, Fit]:
    """None. Its tables may be shorter than its tokenizer: its programs mark pictures with no id at all."""
    return {}


def write_files(directory: Path, contents: Contents) -> None:
    """Everything but the weights."""
    config, encoder = model_config(contents), contents.encoder
    write_json(directory / 'config.json', config)
    write_json(directory / 'vision_config.json', plain_config(contents.model.vision.tower.config))
    write_json(directory / 'generation_config.json', generation_config(llm_ids(config, encoder), encoder))
    if encoder is not None:
        write_encoder(directory, encoder, {}, encoder.image_start + encoder.image_token + encoder.image_end)
