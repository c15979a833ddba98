"""From a config to its parts: model, encoder, data loaders."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from torch import Tensor
from torch.utils.data import DataLoader

from mmft.checkpoint.build import as_dtype
from mmft.checkpoint.encoder import tokenizer_directory
from mmft.checkpoint.load import build_opened, open_pretrained
from mmft.checkpoint.template_difference import template_difference
from mmft.data.text.templates import ChatTemplate
from mmft.data.text.tokenizers import has_tokenizer
from mmft.engine.init_from import InitFrom
from mmft.engine.plain import plain_dict, plain_value
from mmft.engine.validation import WithSamples
from mmft.engine.vocabulary import check_rows, grow
from mmft.files.tensors import fingerprint
from mmft.models.buffers import moving_buffers, tensors_of
from mmft.models.lora import plain_key
from mmft.models.precision import store_as_
from mmft.models.tuning import apply_tune, check_tune, part_of
from mmft.models.vlm import VLM
from mmft.registry import COLLATORS, DATASETS, ENCODERS, MODELS, SAMPLERS
from mmft.words import count_of

__all__ = ['BuiltModel', 'build_dataloader', 'build_encoder', 'build_model', 'checked_encoder', 'encoder_settings',
           'grown_tune', 'tune_on_meta']  # fmt: skip

logger = logging.getLogger('mmft')


class BuiltModel(NamedTuple):
    """A model and what a checkpoint must know of it.

    Attributes:
        base: where its base weights come from (path or paths, fingerprint).
        tune: how its parts are tuned, as used.
        initialised: name -> value of what is frozen and in no base: randomly initialised, or from ``init_from``. A
            checkpoint that is complete in itself holds it too. (Values as they were before QLoRA packed them.)
    """

    model: VLM
    base: dict[str, Any] | None
    tune: dict[str, Any]
    initialised: dict[str, Tensor]


def build_model(cfg: Config, resumed: Mapping[str, Tensor] | None = None) -> BuiltModel:
    """The model of a config: base weights loaded (or random), ``init_from`` over them, parts frozen, opened, adapted.

    Args:
        resumed: ``initialised`` of a checkpoint that is going to be resumed; takes the place of ``init_from``.
    """
    model_config, dtype = plain_dict(cfg.model), as_dtype(cfg.get('dtype', 'auto'))
    base = None
    if cfg.get('pretrained'):
        pretrained = plain_pretrained(cfg)
        opened = open_pretrained(pretrained, model_config)
        model, initialised = build_opened(opened, model_config, dtype or 'auto')
        base = {'path': pretrained, 'fingerprint': fingerprint(opened.tensors)}
    else:
        model = MODELS.build(model_config)
        if dtype is not None:
            store_as_(model, dtype)
        initialised = set(tensors_of(model))
    rows, tune = model.llm.vocab_size, grown_tune(cfg, model)
    if model.llm.vocab_size > rows:
        logger.info(f'{count_of(model.llm.vocab_size - rows, "row")} added to token table and output head, which train')
    source = cfg.get('init_from') if resumed is None else {'tensors': resumed} if resumed else None
    start = InitFrom(plain_value(source), model_config, base) if source else None
    if start is not None:
        start.before_tune(model)
        if resumed is None:
            _warn_of_random(start, initialised)
    values = tensors_of(model)
    values = {name: values[name].detach() for name in sorted(initialised | (start.filled if start else set()))}
    tune = apply_tune(model, tune)
    if start is not None:
        start.after_tune(model)
    trained = {plain_key(name) for name, parameter in model.named_parameters() if parameter.requires_grad}
    trained |= set(moving_buffers(model))
    if cfg.get('gradient_checkpointing'):
        model.gradient_checkpointing_enable()
    return BuiltModel(model, base, tune, {name: value for name, value in values.items() if name not in trained})


def _warn_of_random(start: InitFrom, initialised: set[str]) -> None:
    """Says which tensors of the parts that ``init_from`` fills neither it nor the base holds."""
    parts = {part_of(name) for name in start.filled}
    if left := sorted(name for name in initialised - start.filled if part_of(name) in parts):
        logger.warning(
            f'{start.path} holds no values for {count_of(len(left), "tensor")} of the parts that start from it, such '
            f'as {left[0]}: randomly initialised'
        )


def plain_pretrained(cfg: Mapping[str, Any]) -> Any:
    """``pretrained`` of a config as text, or as a dict of texts."""
    value = plain_value(cfg.get('pretrained'))
    if not isinstance(value, dict):
        return str(value) if value else None
    texts = {part: [str(p) for p in path] if isinstance(path, (list, tuple)) else path for part, path in value.items()}
    return {part: path if isinstance(path, list) else str(path) for part, path in texts.items() if path is not None}


def grown_tune(cfg: Config, model: VLM) -> dict[str, Any]:
    """``tune`` of a config; with ``resize_embeddings`` ``model`` gets the rows that the tokenizer's tokens need first.

    Where there is no tokenizer yet nothing is known of its tokens, and nothing grows.
    """
    tune, settings = plain_dict(cfg.get('tune') or {}), encoder_settings(cfg)
    if not cfg.get('resize_embeddings') or not has_tokenizer(settings.get('tokenizer') or ''):
        return tune
    return grow(model.llm, ENCODERS.build({'tokens_per_tile': 1, **settings}), tune)


def tune_on_meta(model: VLM, tune: Mapping[str, Any] | None) -> tuple[dict[str, dict[str, Any]], set[str]]:
    """``apply_tune`` for a model on the meta device, QLoRA without its quantiser.

    Returns:
        ``tune`` as used, and the parts whose linear layers are to be 4-bit.
    """
    asked = check_tune(tune)
    quantised = {part for part, spec in asked.items() if spec.get('type') == 'qlora'}
    plain = {part: {**spec, 'type': 'lora'} if part in quantised else spec for part, spec in asked.items()}
    with torch.device('meta'):
        used = apply_tune(model, plain)
    for part in quantised:
        used[part]['type'] = 'qlora'
    return used, quantised


def encoder_settings(cfg: Config) -> dict[str, Any]:
    """``encoder`` of a config. Its tokenizer is that of ``pretrained`` unless ``encoder.tokenizer`` names another."""
    config = plain_dict(cfg.get('encoder') or {})
    config.setdefault('tokenizer', tokenizer_directory(plain_pretrained(cfg)))
    return config


def build_encoder(cfg: Config, model: VLM) -> Any:
    """The encoder of a config; logs where its template is not the tokenizer's own."""
    encoder = checked_encoder(cfg, model)
    level, text = template_note(encoder, encoder_settings(cfg)['tokenizer'])
    if text:
        logger.log(level, text)
    model.take_image_token(encoder)
    return encoder


def checked_encoder(cfg: Config, model: VLM) -> Any:
    """The encoder of a config, for a model that has a row for each of its tokens.

    Raises:
        ConfigError: tokens without a row, or as the encoder says.
    """
    config = encoder_settings(cfg)
    tile_size = (config.get('image_processor') or {}).get('tile_size', model.vision.image_size)
    config.setdefault('tokens_per_tile', model.num_image_tokens(tile_size))
    encoder = ENCODERS.build(config)
    if not cfg.get('resize_embeddings'):
        check_rows(encoder, model.llm)
    return encoder


def template_note(encoder: Any, tokenizer: Any) -> tuple[int, str]:
    """``template_difference`` of an encoder whose tokenizer was named by its directory."""
    if isinstance(tokenizer, (str, os.PathLike)) and isinstance(getattr(encoder, 'template', None), ChatTemplate):
        return template_difference(encoder, Path(tokenizer))
    return logging.INFO, ''


def build_dataloader(cfg: Mapping[str, Any], encoder: Any, seed: int, training: bool = True) -> DataLoader:
    """The loader of ``train_dataloader`` or ``val_dataloader`` in a config.

    Args:
        cfg: ``batch_size, num_workers, dataset, sampler, collate`` and any other argument of torch's ``DataLoader``.
        encoder: given to the dataset.
        seed: of the sampler's order.
        training: shuffled batches; otherwise in order, each batch together with its samples (see ``WithSamples``).
    """
    config = plain_dict(cfg)
    spec = {'type': 'ChatDataset', 'encoder': encoder, **config.pop('dataset')}
    if training and spec['type'] == 'ChatDataset':
        spec.setdefault('data_augment', None)  # as its meta file says; pictures are never changed elsewhere
    dataset = DATASETS.build(spec)
    sampler = {'type': 'EpochBatchSampler', 'shuffle': training, 'seed': seed, **config.pop('sampler', {})}
    sampler.setdefault('batch_size', config.pop('batch_size', 1))
    collate = {'type': 'PadCollator', **config.pop('collate', {})}
    if encoder is not None:
        collate.setdefault('pad_token_id', encoder.pad_token_id or 0)
    collator = COLLATORS.build(collate)
    config.setdefault('persistent_workers', config.get('num_workers', 0) > 0)
    config.setdefault('pin_memory', torch.cuda.is_available())
    return DataLoader(
        dataset,
        batch_sampler=SAMPLERS.build({**sampler, 'dataset': dataset}),
        collate_fn=collator if training else WithSamples(collator),
        # Its own generator: making an iterator must not draw from the global one, which a resumed run puts back.
        generator=torch.Generator().manual_seed(seed),
        **config,
    )
