"""What an export reads: the base that a training began with, and the checkpoint it wrote."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mmft.checkpoint.load import Pretrained, open_pretrained
from mmft.checkpoint.training_file import checked_content
from mmft.errors import CheckpointError
from mmft.export.lazy_tensors import ComputedTensor, StoredTensor, materialise, stored_pickle, stored_tensors
from mmft.files.directory import ModelDirectory
from mmft.files.foreign_checkpoints import foreign_training
from mmft.files.tensors import TensorSource, fingerprint, main_dtype
from mmft.layouts import NameTable
from mmft.models.buffers import moving_buffers
from mmft.models.tuning import apply_tune
from mmft.models.vlm import VLM

__all__ = ['Base', 'TrainingCheckpoint', 'check_same_base', 'most_bytes', 'plain_tune', 'trained_names']


@dataclass
class TrainingCheckpoint:
    """A ``.pth`` of mmft's training, its tensors still on disk.

    Attributes:
        state: name -> tensor of all that was trained or ``initialised``.
        meta: as ``mmft/engine/training_state.py`` describes it: ``base``, ``tune``, ``config``...
        encoder: ``ChatEncoder.to_dict()``, or None.
    """

    path: Path
    state: dict[str, StoredTensor]
    meta: dict[str, Any]
    encoder: dict[str, Any] | None

    @property
    def initialised(self) -> set[str]:
        """Tensors that were not trained and are in no base: they came by ``init_from``, or are random and frozen."""
        return set(self.meta.get('initialised') or ())

    @classmethod
    def read(cls, path: str | Path) -> TrainingCheckpoint:
        """Raises ``CheckpointError`` for a file that is missing, damaged or no checkpoint of mmft's training."""
        try:
            content = stored_pickle(Path(path))
        except CheckpointError as error:
            raise foreign_training(Path(path)) or error from None
        content = checked_content(content, Path(path))
        if 'tune' not in content['meta']:
            raise CheckpointError(f'{path} does not say what was trained', expected='meta.tune, as training writes it')
        return cls(Path(path), content['state_dict'], materialise(content['meta']), materialise(content.get('encoder')))


@dataclass
class Base:
    """The directory a training started from, or the directories of its parts.

    Attributes:
        pretrained: as the config says it.
        stored: the tensors, by the names that ``layout`` reads.
        where: ``pretrained`` as text.
        below: where ``pretrained`` is an adapter directory: its base, where the caller names it.
    """

    pretrained: str | Path | Mapping[str, Any]
    layout: NameTable
    tensors: TensorSource
    stored: dict[str, StoredTensor | ComputedTensor]
    where: str
    below: str | Path | None = None

    @classmethod
    def read(
        cls,
        pretrained: str | Path | Mapping[str, Any],
        model_config: Mapping[str, Any] | None = None,
        below: str | Path | None = None,
    ) -> Base:
        """Raises ``CheckpointError`` as ``open_pretrained`` does.

        Args:
            model_config: what a base of parts needs: it does not say how the other parts look.
            below: as ``base`` of ``mmft.load``.
        """
        opened = open_pretrained(pretrained, model_config, below)
        return cls(pretrained, opened.layout, opened.tensors, stored_tensors(opened.tensors), opened.where, below)

    @property
    def opened(self) -> Pretrained:
        """The weights as ``build_opened`` takes them."""
        return Pretrained(self.layout, self.tensors, self.where)

    @property
    def directories(self) -> list[Path]:
        """Every directory that is read."""
        parts = self.pretrained.values() if isinstance(self.pretrained, Mapping) else [self.pretrained]
        places = [place for part in parts for place in (part if isinstance(part, (list, tuple)) else [part])]
        below = self.directory.base_directory if self.path is not None else None
        return [Path(place) for place in (*places, below and below.path) if place is not None]

    @property
    def directory(self) -> ModelDirectory:
        """The directory, where it is one."""
        return ModelDirectory(self.path, self.below)

    @property
    def path(self) -> Path | None:
        """The directory; None where it is one per part."""
        return None if isinstance(self.pretrained, Mapping) else Path(self.pretrained)

    def main_dtype(self) -> torch.dtype:
        """The one dtype of the model."""
        return main_dtype(self.tensors) or torch.float32


def most_bytes(kinds: Iterable[tuple[torch.dtype, tuple[int, ...]]]) -> torch.dtype:
    """The dtype that most bytes of tensors of these dtypes and shapes have."""
    sizes: dict[torch.dtype, int] = {}
    for dtype, shape in kinds:
        sizes[dtype] = sizes.get(dtype, 0) + torch.Size(shape).numel() * dtype.itemsize
    return max(sizes, key=sizes.get)


def check_same_base(base: Base | None, checkpoint: TrainingCheckpoint) -> None:
    """Refuse a checkpoint that belongs to other base weights.

    Raises:
        CheckpointError: names both bases.
    """
    trained_on = checkpoint.meta.get('base')
    if base is None and trained_on is None:
        return
    if base is None or trained_on is None:
        raise CheckpointError(
            f'{checkpoint.path} was trained on '
            f'{trained_on["path"] if trained_on else "random weights (pretrained=None)"}, but the config says '
            f'pretrained={base.where if base else None!r}',
            expected='the config of that training',
            fix='take the config from the work_dir of the checkpoint, or leave it out: the checkpoint holds its own',
        )
    own = fingerprint(base.tensors)
    if own != trained_on['fingerprint']:
        raise CheckpointError(
            f'{checkpoint.path} was trained on the base {trained_on["path"]} (fingerprint '
            f'{trained_on["fingerprint"][:12]}), but {base.where} holds other weights (fingerprint {own[:12]})',
            expected='the base that was trained on: trained differences mean nothing on another one',
            fix='set pretrained to that base (--cfg-options pretrained=PATH if it moved)',
        )


def plain_tune(tune: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The settings of a checkpoint as ``apply_tune`` takes them, without quantisation."""
    plain = {}
    for part, spec in tune.items():
        if spec['type'] in ('lora', 'qlora'):
            names = ('r', 'alpha', 'dropout', 'targets', 'dora')
            layers = {'from_layer': spec['layers'][0]} if spec.get('layers') else {}
            kept = {name: spec[name] for name in ('embeddings',) if name in spec}
            plain[part] = {'type': 'lora', **{name: spec[name] for name in names}, **layers, **kept}
        else:
            plain[part] = dict(spec)
    return plain


def trained_names(model: VLM, tune: Mapping[str, Any]) -> set[str]:
    """Parameters and buffers that training with these settings moves. Changes ``model``, which may be on meta."""
    with torch.device('meta'):
        apply_tune(model, plain_tune(tune))
    return {name for name, p in model.named_parameters() if p.requires_grad} | moving_buffers(model).keys()
