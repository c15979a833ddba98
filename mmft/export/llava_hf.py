"""The HF-native LLaVA directories: ``LlavaForConditionalGeneration`` and, with AnyRes tiles, ``LlavaNext...``.

Sources: ``transformers/models/{llava,llava_next}`` 5.23; LMDeploy 0.18, ``lmdeploy/vl/model/llava_hf.py`` and
``lmdeploy/pytorch/models/llava.py``. What the classes have no place for is put elsewhere (``fits``) or refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from mmft.errors import ConfigError
from mmft.export.files import (
    Contents,
    generation_config,
    llm_ids,
    plain_config,
    text_config,
    write_encoder,
    write_json,
)
from mmft.layouts.adjust import Fit
from mmft.models.vlm import VLM
from mmft.registry import IMAGE_PROCESSORS

__all__ = ['UNTIE', 'check', 'fits', 'image_processor', 'model_config', 'processor_config', 'write_files']

UNTIE = False
_ROWS = 64  # tables that grow, grow to a multiple of this: what tensor parallelism and kernels like to divide


def is_next(contents: Contents) -> bool:
    """Whether the tokens of several tiles are arranged as one picture, which LLaVA-NeXT does and LLaVA-1.5 not."""
    return contents.model_config.get('merge') is not None


def feature_layer(vision: nn.Module) -> int:
    """``select_layer`` counted from the end: LMDeploy adds it to the number of layers."""
    layer = vision.select_layer
    return layer if layer < 0 else layer - len(vision.layers) - 1


def model_config(contents: Contents) -> dict[str, Any]:
    """``config.json``."""
    model, text = contents.model, text_config(contents)
    vision, projector = model.vision, model.projector
    for fit_name, fit in fits(contents).items():
        if fit.rows is not None:
            text['vocab_size'] = fit.rows
        elif fit_name == _final_norm(model):
            text['logits_scaling'] = 1.0
    config = {
        'architectures': [f'Llava{"Next" if is_next(contents) else ""}ForConditionalGeneration'],
        'model_type': 'llava_next' if is_next(contents) else 'llava',
        'dtype': contents.dtype,
        'tie_word_embeddings': bool(model.llm.lm.config.tie_word_embeddings),
        'image_token_index': contents.image_token_id,
        # LMDeploy takes the pad token's id for a picture's places and writes no padding; this one is no text's token.
        'pad_token_id': contents.image_token_id,
        'image_seq_length': contents.tokens_per_tile,
        'projector_hidden_act': projector.act,
        'multimodal_projector_bias': True,
        'vision_feature_layer': feature_layer(vision),
        'vision_feature_select_strategy': 'default' if vision.dropped_tokens else 'full',
        'text_config': text,
        'vision_config': {
            **plain_config(vision.tower.config),
            'architectures': [type(vision.tower).__name__],
            'dtype': contents.dtype,
        },
    }
    if is_next(contents):
        config['image_grid_pinpoints'] = _pinpoints(contents)
    return {name: value for name, value in config.items() if value is not None}


def _pinpoints(contents: Contents) -> list[list[int]]:
    """Sizes that AnyRes chooses from as transformers has them: (height, width)."""
    processor = IMAGE_PROCESSORS.build(contents.tiler or {'type': 'AnyResTiler'})
    return [[height, width] for width, height in processor.grid_pinpoints]


def fits(contents: Contents) -> dict[str, Fit]:
    """The classes' output head has neither a bias (Phi) nor a scale (MiniCPM), and every id needs a row of the table.

    MiniCPM's scale goes into the norm before the head. A bias that is not zero cannot go anywhere.
    """
    model = contents.model
    found: dict[str, Fit] = {}
    scale = getattr(model.llm.lm.config, 'logits_scaling', None)
    if scale not in (None, 1, 1.0):
        found[_final_norm(model)] = Fit(factor=1 / scale)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    head = model.llm.lm.get_output_embeddings()
    if head.bias is not None:
        found[names[id(head.bias)]] = Fit(absent=True)
    pad = contents.encoder.pad_token_id if contents.encoder is not None else 0
    last = max(contents.image_token_id or 0, pad)
    if last >= model.llm.vocab_size:
        rows = -(-(last + 1) // _ROWS) * _ROWS
        tables = (model.llm.lm.get_input_embeddings(), head)
        found |= {names[id(table.weight)]: Fit(rows=rows) for table in tables}
    return found


def _final_norm(model: VLM) -> str:
    return 'llm.lm.model.norm.weight'


def check(contents: Contents) -> None:
    """Refuse what transformers' processors cannot do as the encoder does it.

    Raises:
        ConfigError: with all reasons.
    """
    if contents.encoder is None:
        return
    tiler, model = contents.tiler, contents.model
    kind, side = tiler.get('type'), tiler.get('tile_size', model.vision.image_size)
    known = ('AnyResTiler',) if is_next(contents) else ('PadSquare', 'Resize', 'CenterCrop')
    problems = []
    if kind is not None and kind not in known:
        problems.append(f'it prepares pictures as {" or ".join(known)} do; the encoder has {kind}')
    if kind == 'PadSquare' and [int(255 * m) for m in tiler['mean']] != [int(255 * m) for m in model.pixel_mean]:
        problems.append(
            f"it pads with the model's pixel_mean {list(model.pixel_mean)}; the encoder with {tiler['mean']}"
        )
    if kind == 'AnyResTiler' and (tiler['mode'] != 'spatial_unpad' or tiler['max_tiles'] is not None):
        problems.append(
            'it arranges the tiles as spatial_unpad, however many; the encoder has '
            f'mode={tiler["mode"]!r}, max_tiles={tiler["max_tiles"]}'
        )
    if side != model.vision.image_size and model_type(model) != 'dinov2':
        problems.append(f'it takes tiles of {model.vision.image_size} px only; the encoder cuts {side} px')
    if problems:
        raise ConfigError.gather([f"transformers' LLaVA processor: {p}; use --layout native" for p in problems])


def model_type(model: VLM) -> str:
    """What transformers calls the tower."""
    return model.vision.tower.config.model_type


def image_processor(contents: Contents) -> dict[str, Any]:
    """How pictures are prepared: ``preprocessor_config.json``."""
    vision, tiler = contents.model.vision, contents.tiler
    side = tiler.get('tile_size', vision.image_size)
    square = {'height': side, 'width': side}
    images = {
        # transformers resizes with torchvision, a grey level beside training's Pillow here and there;
        # AutoProcessor.from_pretrained(path, backend='pil') gives the very pixels.
        'image_processor_type': f'Llava{"Next" if is_next(contents) else ""}ImageProcessor',
        'do_convert_rgb': True,
        'do_resize': True,
        'size': square if tiler.get('type') == 'Resize' else {'shortest_edge': side},
        'resample': 3,  # PIL.Image.Resampling.BICUBIC
        'do_center_crop': tiler.get('type') != 'Resize',
        'crop_size': square,
        'do_rescale': True,
        'rescale_factor': 1 / 255,
        'do_normalize': True,
        'image_mean': list(contents.model.pixel_mean),
        'image_std': list(contents.model.pixel_std),
        'do_pad': is_next(contents) or tiler.get('type') == 'PadSquare',
        **contents.transparency,
    }
    if is_next(contents):
        images['image_grid_pinpoints'] = _pinpoints(contents)
    return images


def processor_config(contents: Contents) -> dict[str, Any]:
    """``processor_config.json``."""
    vision = contents.model.vision
    return {
        'processor_class': 'LlavaNextProcessor' if is_next(contents) else 'LlavaProcessor',
        'image_token': contents.encoder.image_token,
        'patch_size': vision.patch_size,
        'num_additional_image_tokens': vision.prefix_tokens,
        'vision_feature_select_strategy': 'default' if vision.dropped_tokens else 'full',
        'image_processor': image_processor(contents),
    }


def write_files(directory: Path, contents: Contents) -> None:
    """Everything but the weights."""
    config, encoder = model_config(contents), contents.encoder
    write_json(directory / 'config.json', config)
    ids = llm_ids(contents.model.llm.lm.config.to_dict(), encoder)
    write_json(directory / 'generation_config.json', generation_config(ids, encoder))
    write_json(directory / 'preprocessor_config.json', image_processor(contents))
    if encoder is not None:
        write_json(directory / 'processor_config.json', processor_config(contents))
        picture = encoder.image_start + encoder.image_token + encoder.image_end
        write_encoder(directory, encoder, {'image_token': encoder.image_token}, picture)
