"""Samples -> batch: ``PadCollator`` puts each in a row of its own, ``PackCollator`` all of them in one row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from mmft.errors import ConfigError, ShapeError
from mmft.registry import COLLATORS
from mmft.structures import IGNORE_INDEX, Sample

__all__ = ['PackCollator', 'PadCollator', 'pictures']

LOSS_REDUCTIONS = {'token': 0.0, 'sample': -1.0, 'square': -0.5}
"""What a trained token counts for, as a power of how many its sample has."""


class _Collator:
    """What both have in common.

    A sample that is None (a picture that broke while it was decoded, see ``ChatDataset``) is left out. If nothing is
    left, the batch is one padding token without a label: it trains nothing, and every rank still takes its step.

    Args:
        pad_token_id: fills up rows; any id will do, masks are made from lengths.
        pad_to_multiple_of: makes L a multiple of this; None: no more than needed.
        loss_reduction: ``token``: every trained token counts alike; ``sample``: every sample does, however long its
            answers; ``square``: a sample counts for the square root of its trained tokens, as InternVL2.5 is trained.
            Source: ``len2weight`` of OpenGVLab/InternVL, ``internvl_chat_finetune.py`` and ``dataset_packed.py``.
    """

    def __init__(
        self, pad_token_id: int = 0, pad_to_multiple_of: int | None = None, loss_reduction: str = 'token'
    ) -> None:
        if loss_reduction not in LOSS_REDUCTIONS:
            raise ConfigError(f'loss_reduction={loss_reduction!r}', expected=f'one of {list(LOSS_REDUCTIONS)}')
        self.loss_reduction = loss_reduction
        if pad_to_multiple_of is not None and pad_to_multiple_of < 1:
            raise ConfigError(f'pad_to_multiple_of={pad_to_multiple_of}', expected='a whole number from 1, or None')
        self.pad_token_id, self.pad_to_multiple_of = pad_token_id, pad_to_multiple_of

    def __call__(self, samples: Sequence[Sample | None]) -> dict[str, Any]:
        """Collate.

        Returns:
            A ``Batch`` and, under ``meta``, the ``meta`` dict of each sample with its ``num_tiles``; with another
            ``loss_reduction`` than ``token`` also ``loss_weight`` (B,L) float32.

        Raises:
            ShapeError: tiles of different sizes or of different kinds, or labels that do not fit their tokens.
        """
        kept = [s for s in samples if s is not None]
        for sample in kept:
            tokens, labels = tuple(sample.input_ids.shape), tuple(sample.labels.shape)
            if tokens != labels or len(tokens) != 1 or not len(sample):
                raise ShapeError(
                    f'{labels} labels for {tokens} tokens in {_name(sample)}',
                    expected='the same length, at least 1',
                )
        batch: dict[str, Any] = self._tokens(kept or [_nothing(self.pad_token_id)])
        batch |= pictures(kept)
        batch['meta'] = [{**s.meta, 'num_tiles': list(s.num_tiles)} for s in kept]
        return batch

    def _tokens(self, samples: list[Sample]) -> dict[str, torch.Tensor | None]:
        raise TypeError(f'{type(self).__name__} does not say how tokens are laid out')

    def _weights(self, counts: torch.Tensor) -> torch.Tensor:
        """What each trained token of samples with so many counts for."""
        return counts.clamp(min=1).float() ** LOSS_REDUCTIONS[self.loss_reduction]

    def _padded(self, length: int) -> int:
        unit = self.pad_to_multiple_of or 1
        return -(-length // unit) * unit


@COLLATORS.register_module()
class PadCollator(_Collator):
    """One sample a row, padded on the right to the longest.

    ``attention_mask`` comes from the lengths. InternVL's own collator makes it from ``input_ids != 0`` and so hides
    every '!' of a Qwen2 text, whose id is 0.

    >>> ids = torch.tensor([5, 0, 7])
    >>> batch = PadCollator(pad_token_id=0)([Sample(ids, ids.clone()), Sample(ids[:2], ids[:2].clone())])
    >>> batch['attention_mask'].tolist()
    [[True, True, True], [True, True, False]]
    """

    def _tokens(self, samples: list[Sample]) -> dict[str, torch.Tensor | None]:
        lengths = torch.tensor([len(s) for s in samples])
        size = len(samples), self._padded(int(lengths.max()))
        input_ids, labels = torch.full(size, self.pad_token_id), torch.full(size, IGNORE_INDEX)
        for row, sample in enumerate(samples):
            input_ids[row, : len(sample)] = sample.input_ids
            labels[row, : len(sample)] = sample.labels
        position_ids = torch.arange(size[1])
        batch = {
            'input_ids': input_ids,
            'attention_mask': position_ids < lengths[:, None],
            'position_ids': position_ids.expand(size).clone(),
            'labels': labels,
        }
        if self.loss_reduction != 'token':
            counts = (labels[:, 1:] != IGNORE_INDEX).sum(1, keepdim=True)
            batch['loss_weight'] = self._weights(counts).expand(size).clone()
        return batch


@COLLATORS.register_module()
class PackCollator(_Collator):
    """All samples in one row (B=1), ``position_ids`` restarting at 0 with each: that is where attention is cut.

    The first label of each sample is ignored, so that no sample is asked to predict the beginning of the next.
    """

    def _tokens(self, samples: list[Sample]) -> dict[str, torch.Tensor | None]:
        length = sum(map(len, samples))
        if padding := self._padded(length) - length:
            samples = [*samples, _nothing(self.pad_token_id, padding)]
        labels = torch.cat([s.labels for s in samples])
        starts = torch.tensor([0, *map(len, samples[:-1])]).cumsum(0)
        labels[starts] = IGNORE_INDEX
        batch = {
            'input_ids': torch.cat([s.input_ids for s in samples])[None],
            'attention_mask': None,
            'position_ids': torch.cat([torch.arange(len(s)) for s in samples])[None],
            'labels': labels[None],
        }
        if self.loss_reduction != 'token':
            lengths = list(map(len, samples))
            counts = torch.stack([(part != IGNORE_INDEX).sum() for part in labels.split(lengths)])
            batch['loss_weight'] = self._weights(counts).repeat_interleave(torch.tensor(lengths))[None]
        return batch


def _nothing(pad_token_id: int, length: int = 1) -> Sample:
    return Sample(torch.full((length,), pad_token_id), torch.full((length,), IGNORE_INDEX))


def pictures(samples: Sequence[Sample]) -> dict[str, Any]:
    """What a batch says of its pictures, those of all samples in order.

    Returns:
        ``pixel_values`` (N,3,S,S) uint8 or None; where tiles are arranged, also ``image_sizes`` (M,2) and
        ``image_grids`` (M,2), int64, and where they were counted ``image_slots``, a list of M numbers: to be compared
        with what the model makes of each picture, no device has to be asked for them.
    """
    pictured = [s for s in samples if s.pixel_values is not None]
    if not pictured:
        return {'pixel_values': None}
    first = pictured[0]
    for sample in pictured:
        if sample.pixel_values.shape[1:] != first.pixel_values.shape[1:]:
            raise ShapeError(
                f'tiles of {tuple(sample.pixel_values.shape[1:])} in {_name(sample)} and of '
                f'{tuple(first.pixel_values.shape[1:])} in {_name(first)}',
                expected='one tile size in a batch',
                fix='use one image_processor for all data sets',
            )
        if bool(sample.image_grids) != bool(first.image_grids):
            raise ShapeError(
                f'tiles that form a plane in only one of {_name(sample)} and {_name(first)}',
                expected='one kind of image processor in a batch',
                fix='use one image_processor for all data sets',
            )
    batch: dict[str, Any] = {'pixel_values': torch.cat([s.pixel_values for s in pictured])}
    if first.image_grids:
        batch['image_sizes'] = torch.tensor([size for s in pictured for size in s.image_sizes])
        batch['image_grids'] = torch.tensor([grid for s in pictured for grid in s.image_grids])
        if all(s.num_slots for s in pictured):
            batch['image_slots'] = [count for s in pictured for count in s.num_slots]
    return batch


def _name(sample: Sample) -> str:
    place = f'{sample.meta.get("file", "a sample")}'
    return f'{place}:{sample.meta["line"]}' if 'line' in sample.meta else place
