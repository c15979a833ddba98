"""From a config to its parts: model, encoder, data loaders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from torch.utils.data import DataLoader

from mmft.checkpoint.load import as_dtype, build_pretrained
from mmft.engine.validation import WithSamples
from mmft.models.tuning import apply_tune
from mmft.models.vlm import VLM
from mmft.registry import COLLATORS, DATASETS, ENCODERS, MODELS, SAMPLERS

__all__ = ['BuiltModel', 'build_dataloader', 'build_encoder', 'build_model']


class BuiltModel(NamedTuple):
    """A model and what a checkpoint must know of it: its base (path, fingerprint) and how its parts are tuned."""

    model: VLM
    base: dict[str, str] | None
    tune: dict[str, Any]


def plain_dict(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """A config's dict as ordinary dicts, so that nothing of mmengine's goes into parts and checkpoints."""
    return cfg.to_dict() if hasattr(cfg, 'to_dict') else dict(cfg)


def build_model(cfg: Config) -> BuiltModel:
    """The model of a config: base weights loaded (or random), parts frozen, opened and adapted."""
    model_config, dtype = plain_dict(cfg.model), as_dtype(cfg.get('dtype', 'auto'))
    base = None
    if cfg.get('pretrained'):
        model, mark = build_pretrained(cfg.pretrained, model_config, dtype or 'auto')
        base = {'path': str(cfg.pretrained), 'fingerprint': mark}
    else:
        model = MODELS.build(model_config)
        if dtype is not None:
            model.to(dtype)
    tune = apply_tune(model, plain_dict(cfg.get('tune') or {}))
    if cfg.get('gradient_checkpointing'):
        model.gradient_checkpointing_enable()
    return BuiltModel(model, base, tune)


def build_encoder(cfg: Config, model: VLM) -> Any:
    """The encoder of a config. Its tokenizer is that of ``pretrained`` unless ``encoder.tokenizer`` names another."""
    config = plain_dict(cfg.encoder)
    config.setdefault('tokenizer', str(cfg.get('pretrained') or ''))
    tile_size = config.get('image_processor', {}).get('tile_size', model.vision.image_size)
    config.setdefault('tokens_per_tile', model.num_image_tokens(tile_size))
    encoder = ENCODERS.build(config)
    if model.image_token_id is None:
        model.image_token_id = encoder.image_token_id
    return encoder


def build_dataloader(cfg: Mapping[str, Any], encoder: Any, seed: int, training: bool = True) -> DataLoader:
    """The loader of ``train_dataloader`` or ``val_dataloader`` in a config.

    Args:
        cfg: ``batch_size, num_workers, dataset, sampler, collate`` and any other argument of torch's ``DataLoader``.
        encoder: given to the dataset.
        seed: of the sampler's order.
        training: shuffled batches; otherwise in order, each batch together with its samples (see ``WithSamples``).
    """
    config = plain_dict(cfg)
    dataset = DATASETS.build({'type': 'ChatDataset', 'encoder': encoder, **config.pop('dataset')})
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
