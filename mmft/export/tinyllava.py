"""TinyLLaVA Factory's directory: ``TinyLlavaForConditionalGeneration``, for its own programs.

Source: ``tinyllava/model/configuration_tinyllava.py`` of TinyLLaVA/TinyLLaVA_Factory.
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
from mmft.export.llava_official import projector_name
from mmft.layouts.adjust import Fit
from mmft.layouts.llava_official import unpadded

__all__ = ['UNTIE', 'check', 'fits', 'model_config', 'write_files']

UNTIE = False


def model_config(contents: Contents) -> dict[str, Any]:
    """``config.json``."""
    model, encoder = contents.model, contents.encoder
    projector, llm = model.projector, model.llm.lm
    text = older_config(llm.config)
    text |= llm_ids(text, encoder) | {'architectures': [type(llm).__name__], 'torch_dtype': contents.dtype}
    vision = plain_config(model.vision.tower.config)
    return {
        'architectures': ['TinyLlavaForConditionalGeneration'],
        'model_type': 'tinyllava',
        'torch_dtype': contents.dtype,
        # Names on a hub, which its programs want only where a part is to be fetched; the weights are all here.
        'llm_model_name_or_path': text['model_type'],
        'tokenizer_name_or_path': text['model_type'],
        'vision_model_name_or_path': vision['model_type'],
        'connector_type': projector_name(contents) if type(projector).__name__ == 'MLP' else _kind(projector),
        'num_queries': getattr(projector, 'num_queries', None),
        'num_resampler_layers': getattr(projector, 'depth', None) if _kind(projector) == 'resampler' else None,
        'resampler_hidden_size': None,
        'vision_feature_layer': model.vision.select_layer,
        'vision_feature_select_strategy': model.vision.select_feature,
        'image_aspect_ratio': _aspects(contents).get(contents.tiler.get('type'), 'square'),
        'tokenizer_use_fast': True,
        'tokenizer_padding_side': 'right',
        'tokenizer_model_max_length': text.get('max_position_embeddings'),
        'hidden_size': model.llm.hidden_size,
        'vocab_size': model.llm.vocab_size,
        'vision_hidden_size': model.vision.hidden_size,
        'tie_word_embeddings': bool(llm.config.tie_word_embeddings),
        'text_config': text,
        'vision_config': vision,
    }


def _kind(projector: Any) -> str:
    return type(projector).__name__.lower()


def _aspects(contents: Contents) -> dict[str, str]:
    """``image_aspect_ratio`` of the image processors that it has."""
    return {'PadSquare': 'pad', unpadded(type(contents.model.vision).__name__): 'square'}


def check(contents: Contents) -> None:
    """Raises ``ConfigError`` for what its programs do not do with pictures."""
    kind, aspects = contents.tiler.get('type'), _aspects(contents)
    problems = contents.pixel_problems(type(contents.model.vision).__name__)
    if kind is not None and kind not in aspects:
        problems.append(f'{kind}: with this tower it has {", ".join(aspects)}')
    if problems:
        raise ConfigError.gather([f"TinyLLaVA's own layout cannot hold {p}; use --layout native" for p in problems])


def fits(contents: Contents) -> dict[str, Fit]:
    """No tensor needs fitting: each is written as it is."""
    return {}


def write_files(directory: Path, contents: Contents) -> None:
    """Everything but the weights."""
    config, encoder = model_config(contents), contents.encoder
    write_json(directory / 'config.json', config)
    ids = llm_ids(config['text_config'], encoder)
    write_json(directory / 'generation_config.json', generation_config(ids, encoder))
    if encoder is not None:
        write_encoder(directory, encoder, {}, encoder.image_start + encoder.image_token + encoder.image_end)
