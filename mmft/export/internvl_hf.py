"""The HF-native directory: ``InternVLForConditionalGeneration`` for transformers, LMDeploy and vLLM, no remote code.

Sources: ``transformers/models/{internvl,got_ocr2}`` 5.23; LMDeploy 0.18, ``lmdeploy/vl/model/internvl3_hf.py`` and
``lmdeploy/pytorch/configurations``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmft.errors import ConfigError
from mmft.export.files import Contents, generation_config, llm_ids, text_config, write_encoder, write_json
from mmft.layouts.adjust import Fit

__all__ = ['UNTIE', 'check', 'fits', 'model_config', 'processor_config', 'write_files']

UNTIE = False
_VIDEO = '<video>'


def model_config(contents: Contents) -> dict[str, Any]:
    """``config.json``."""
    vision, llm, dtype = contents.model.vision, contents.model.llm.lm.config, contents.dtype
    config = {
        'architectures': ['InternVLForConditionalGeneration'],
        'model_type': 'internvl',
        'dtype': dtype,
        # transformers reads the tie here, where its default is true; LMDeploy in text_config.
        'tie_word_embeddings': bool(llm.tie_word_embeddings),
        'image_token_id': contents.image_token_id,
        'image_seq_length': contents.tokens_per_tile,
        'downsample_ratio': contents.model.projector.scale,
        'projector_hidden_act': 'gelu',
        'vision_feature_layer': -1,
        'vision_feature_select_strategy': 'default',
        'text_config': text_config(contents),
        'vision_config': {
            'architectures': ['InternVLVisionModel'],
            'model_type': 'internvl_vision',
            'dtype': dtype,
            'hidden_size': vision.hidden_size,
            'num_hidden_layers': len(vision.layers),
            'num_attention_heads': vision.num_attention_heads,
            'intermediate_size': vision.intermediate_size,
            'image_size': [vision.image_size] * 2,
            'patch_size': [vision.patch_size] * 2,
            'num_channels': 3,
            'attention_bias': vision.qkv_bias,
            'use_qk_norm': vision.qk_normalization,
            'norm_type': vision.norm_type,
            'layer_norm_eps': vision.layer_norm_eps,
            'hidden_act': vision.hidden_act,
            'hidden_dropout_prob': vision.dropout,
            'attention_dropout': vision.attention_dropout,
            'initializer_range': vision.initializer_range,
            'layer_scale_init_value': vision.initializer_factor,
            'use_absolute_position_embeddings': True,
            'use_mask_token': False,
            'use_mean_pooling': True,
        },
    }
    return {name: value for name, value in config.items() if value is not None}


def check(contents: Contents) -> None:
    """Refuse what transformers' InternVLProcessor cannot do as the encoder does it.

    Raises:
        ConfigError: with all reasons.
    """
    encoder, tiler = contents.encoder, contents.tiler or {'type': 'DynamicTiler'}
    if encoder is None:
        return
    problems = []
    if tiler['type'] not in ('DynamicTiler', 'Resize'):
        problems.append(f'it cuts pictures into tiles or stretches them; the encoder has {tiler["type"]}')
    if tiler['type'] == 'DynamicTiler' and tiler.get('max_tiles', 1) > 1 and not tiler.get('thumbnail', True):
        problems.append('it adds a thumbnail to every picture of several tiles; the encoder has thumbnail=False')
    if not (encoder.image_start and encoder.image_end):
        problems.append('it puts a token before and after each picture; the encoder has none')
    if problems:
        raise ConfigError.gather([f"transformers' InternVLProcessor: {p}; use --layout official" for p in problems])


def fits(contents: Contents) -> dict[str, Fit]:
    """No tensor needs fitting: the classes have a place for everything."""
    return {}


def processor_config(contents: Contents) -> dict[str, Any]:
    """``processor_config.json``; its ``image_processor`` is ``preprocessor_config.json``."""
    model, tiler = contents.model, contents.tiler
    side = tiler.get('tile_size', model.vision.image_size)
    common = {
        'do_convert_rgb': True,
        'do_resize': True,
        'size': {'height': side, 'width': side},
        'resample': 3,  # PIL.Image.Resampling.BICUBIC
        'do_rescale': True,
        'rescale_factor': 1 / 255,
        'do_normalize': True,
        'image_mean': list(model.pixel_mean),
        'image_std': list(model.pixel_std),
    }
    tiles = {
        # LMDeploy and InternVLProcessor cut in any case; one tile at most is a plain resize.
        'crop_to_patches': True,
        'min_patches': tiler.get('min_tiles', 1),
        'max_patches': tiler.get('max_tiles', 1),
        **contents.transparency,
    }
    return {
        'processor_class': 'InternVLProcessor',
        'image_seq_length': contents.tokens_per_tile,
        'image_processor': {'image_processor_type': 'GotOcr2ImageProcessor', **common, **tiles},
        'video_processor': {'video_processor_type': 'InternVLVideoProcessor', **common},
    }


def write_files(directory: Path, contents: Contents) -> None:
    """Everything but the weights."""
    config, encoder = model_config(contents), contents.encoder
    write_json(directory / 'config.json', config)
    ids = llm_ids(contents.model.llm.lm.config.to_dict(), encoder)
    write_json(directory / 'generation_config.json', generation_config(ids, encoder))
    if encoder is None:
        return
    # InternVL2 knows no videos, but the processor wants a token for them. A new one would lie outside the embedding;
    # this one stands in no prompt before pictures are put in, and a user who writes it gets an error.
    video = _VIDEO if _VIDEO in encoder.tokenizer.get_added_vocab() else encoder.image_end
    tokens = {
        'start_image_token': encoder.image_start,
        'end_image_token': encoder.image_end,
        'context_image_token': encoder.image_token,
        'video_token': video,
    }
    write_encoder(directory, encoder, tokens, encoder.image_token)
    processor = processor_config(contents)
    write_json(directory / 'processor_config.json', processor)
    write_json(
        directory / 'preprocessor_config.json', {**processor['image_processor'], 'processor_class': 'InternVLProcessor'}
    )
    write_json(
        directory / 'video_preprocessor_config.json',
        {**processor['video_processor'], 'processor_class': 'InternVLProcessor'},
    )
