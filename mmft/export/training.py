"""What is exported: a config's model, the base it started from, the checkpoint over it, and its encoder."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from mmengine.config import Config

from mmft.checkpoint.build import as_dtype, build_meta
from mmft.checkpoint.encoder import encoder_config, load_encoder, tokenizer_directory
from mmft.data.text.tokenizers import has_tokenizer
from mmft.errors import CheckpointError, ConfigError
from mmft.export.initial_checkpoint import initial_checkpoint
from mmft.export.inputs import Base, TrainingCheckpoint, check_same_base, trained_names
from mmft.export.trained_config import check_trained_model
from mmft.layouts.small_files import Contents
from mmft.models.vlm import VLM
from mmft.registry import ENCODERS
from mmft.user_code import resolve_code
from mmft.words import count_of

if TYPE_CHECKING:
    from mmft.data.encoder import ChatEncoder

__all__ = ['Training']


@dataclass
class Training:
    """All that a conversion reads: the config's model, its base, the checkpoint and the encoder it was trained with.

    Attributes:
        model_config: of the trained model, whose token table may have grown (``resize_embeddings``).
        base_config: of the model before that.
    """

    model_config: dict[str, Any]
    base: Base | None
    checkpoint: TrainingCheckpoint | None
    model: VLM
    encoder: ChatEncoder | None
    dtype: torch.dtype | None
    base_config: dict[str, Any]

    @classmethod
    def read(
        cls, cfg: Mapping[str, Any], checkpoint: str | Path | None, base_of_adapter: str | Path | None = None
    ) -> Training:
        """Read and check, before anything is written.

        Args:
            base_of_adapter: where ``pretrained`` is an adapter directory: its base.

        Raises:
            CheckpointError: another base, another model, no checkpoint of mmft, tensors missing or left over.
            ConfigError: the config contradicts the base.
        """
        cfg = resolve_code(copy.deepcopy(cfg)).to_dict() if isinstance(cfg, Config) else dict(cfg)
        pretrained = cfg.get('pretrained')
        base = Base.read(pretrained, cfg.get('model'), base_of_adapter) if pretrained else None
        model_config = cfg.get('model') or (base.layout.model_config if base is not None else None)
        if model_config is None:
            raise ConfigError('a config without model and pretrained', fix='pass the config of the training')
        trained = TrainingCheckpoint.read(checkpoint) if checkpoint is not None else None
        if trained is not None:
            check_same_base(base, trained)
            stored, where = trained.meta['config'], str(trained.path)
            check_trained_model(model_config, cfg.get('encoder'), stored, where, cfg.get('tune'))
            _check_complete(model_config, trained)
        elif base is None and not cfg.get('init_from'):
            raise ConfigError('no checkpoint and no pretrained weights', fix='pass a checkpoint')
        base_config, model = model_config, build_meta(model_config)
        if trained is not None and _grown(model, trained):
            model_config = {**model_config, 'llm': {**model_config['llm'], 'vocab_size': model.llm.vocab_size}}
        encoder = _encoder(cfg, model, trained, base)
        model.take_image_token(encoder)
        if trained is None and cfg.get('init_from'):
            trained = initial_checkpoint(cfg, model_config, base)
        model_config = {**model_config, 'image_token_id': model.image_token_id}
        return cls(model_config, base, trained, model, encoder, as_dtype(cfg.get('dtype')), base_config)

    @property
    def inputs(self) -> list[Path]:
        """Every directory and file that is read."""
        found = self.base.directories if self.base is not None else []
        return [*found, self.checkpoint.path] if self.checkpoint is not None else found

    @property
    def contents(self) -> Contents:
        """What the files describe."""
        base = self.base.directory.described if self.base is not None and self.base.path is not None else None
        pictures = encoder_config(self.base.layout, base).get('image_processor') if base is not None else None
        return Contents(self.model, self.model_config, self.encoder, base, pictures=pictures or {})

    def main_dtype(self) -> torch.dtype | None:
        """Of all weights: the base's, or where there is none the config's."""
        return self.dtype if self.base is None else self.base.main_dtype()


def _check_complete(model_config: Mapping[str, Any], checkpoint: TrainingCheckpoint) -> None:
    expected = trained_names(build_meta(model_config), checkpoint.meta['tune']) | checkpoint.initialised
    found = set(checkpoint.state)
    if expected != found:
        missing, extra = sorted(expected - found), sorted(found - expected)
        raise CheckpointError(
            f'{checkpoint.path} does not hold what its own settings train: {count_of(len(missing), "tensor")} missing'
            f'{_such_as(missing)}, {len(extra)} too many{_such_as(extra)}',
            expected=f'the tensors that tune={checkpoint.meta["tune"]} trains in the model of the config',
            fix='take config and checkpoint from the same work_dir',
        )


def _grown(model: VLM, checkpoint: TrainingCheckpoint) -> bool:
    """Whether training added rows to the token table; ``model`` gets them."""
    if not checkpoint.meta['tune'].get('llm', {}).get('embeddings') or not model.llm.tables:
        return False
    before, table = model.llm.vocab_size, model.llm.tables[0].weight
    stored = next((checkpoint.state.get(name) for name, p in model.named_parameters() if p is table), None)
    if stored is not None:
        model.llm.add_rows(stored.shape[0])
    return model.llm.vocab_size > before


def _such_as(names: list[str]) -> str:
    return f' ({", ".join(names[:3])}{", ..." if len(names) > 3 else ""})' if names else ''


def _encoder(
    cfg: Mapping[str, Any], model: VLM, checkpoint: TrainingCheckpoint | None, base: Base | None
) -> ChatEncoder | None:
    """The encoder of the training; for a bare base the one that the config describes; None without a tokenizer."""
    if checkpoint is not None:
        if checkpoint.encoder is None:
            return None
        from mmft.data import ChatEncoder

        return ChatEncoder.from_dict(checkpoint.encoder)
    if not cfg.get('encoder'):
        return load_encoder(base.directory, layout=base.layout) if base.path is not None else None
    config = {'tokenizer': tokenizer_directory(base.pretrained, base.below), **cfg['encoder']}
    if not has_tokenizer(config['tokenizer']):
        return None
    side = config.get('image_processor', {}).get('tile_size', model.vision.image_size)
    return ENCODERS.build({'tokens_per_tile': model.num_image_tokens(side), **config})
