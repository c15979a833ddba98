"""``EpochBatchSampler``: which samples form which batch, as a pure function of (seed, epoch, rank).

Because iterating draws no random numbers, a run resumes in the middle of an epoch by position alone: batch ``k`` is the
same whether or not the batches before it were loaded, with any number of workers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence, Sized
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from mmft.errors import ConfigError
from mmft.registry import SAMPLERS
from mmft.words import count_of

__all__ = ['EpochBatchSampler']


@SAMPLERS.register_module()
class EpochBatchSampler(Sampler):
    """Lists of sample indices for ``torch.utils.data.DataLoader(batch_sampler=...)``.

    Every rank gets the same number of batches. The last batch may be smaller; it is shared out evenly over the ranks,
    and where its samples are fewer than the ranks, or do not divide evenly, up to ``world_size - 1`` samples from the
    beginning of the epoch's order are seen a second time (``drop_last=True`` drops the incomplete batch instead). With
    one rank every sample is seen exactly once.

    ``group_by_length`` sorts by length inside mega-batches of ``mega_batch`` batches, so that little is padded, keeps
    text-only samples and samples with pictures in batches of their own, shuffles the batches, and puts the longest one
    first: where memory does not suffice it shows at the first step.

    Args:
        dataset: anything with a length; ``lengths`` and ``num_images`` of it are read for ``group_by_length``.
        batch_size: samples per batch and rank.
        shuffle: whether each epoch has an order of its own.
        group_by_length: see above; needs ``shuffle``.
        mega_batch: batches that are sorted together.
        seed: of the order; the same on all ranks.
        drop_last: what happens to an incomplete last batch.
        rank, world_size: default: those of ``torch.distributed``.

    >>> sampler = EpochBatchSampler(range(5), batch_size=2, shuffle=False, rank=0, world_size=1)
    >>> list(sampler)
    [[0, 1], [2, 3], [4]]
    >>> sampler.set_start(2)
    >>> list(sampler)
    [[4]]
    """

    def __init__(
        self,
        dataset: Sized,
        batch_size: int = 1,
        shuffle: bool = True,
        group_by_length: bool = False,
        mega_batch: int = 32,
        seed: int = 0,
        drop_last: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        for name, value in (('batch_size', batch_size), ('mega_batch', mega_batch)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f'{name}={value!r}', expected='a whole number from 1')
        if group_by_length and not shuffle:
            raise ConfigError('group_by_length=True with shuffle=False', fix='set shuffle=True, or leave grouping out')
        if rank is None or world_size is None:
            from mmengine.dist import get_dist_info

            rank, world_size = get_dist_info()
        if not 0 <= rank < world_size:
            raise ConfigError(f'rank {rank} of {world_size}', expected='0 <= rank < world_size')
        self.size, self.batch_size, self.shuffle, self.drop_last = len(dataset), batch_size, shuffle, drop_last
        self.mega_batch, self.seed, self.rank, self.world_size = mega_batch, seed, rank, world_size
        self.epoch = self.start = 0
        self._lengths = self._has_images = None
        if group_by_length:
            self._lengths = _column(dataset, 'lengths', self.size)
            self._has_images = _column(dataset, 'num_images', self.size) > 0
        if not len(self):
            raise ConfigError(
                f'{count_of(self.size, "sample")} cannot fill a batch of {batch_size} x {count_of(world_size, "rank")}'
                + (' with drop_last=True' if drop_last else ''),
                fix='use a smaller batch_size, fewer ranks or drop_last=False' if self.size else 'check the dataset',
            )

    @property
    def global_batch(self) -> int:
        """Samples that all ranks together take in one step."""
        return self.batch_size * self.world_size

    def __len__(self) -> int:
        """Batches of a whole epoch on each rank, wherever the next iteration starts."""
        whole, rest = divmod(self.size, self.global_batch)
        return whole + (rest > 0 and not self.drop_last)

    @property
    def settings(self) -> dict[str, Any]:
        """What the order depends on beside dataset, seed, epoch and ranks, as plain values."""
        settings = {'batch_size': self.batch_size, 'shuffle': self.shuffle, 'drop_last': self.drop_last}
        if self._lengths is None:
            return settings
        lengths = hashlib.blake2b(np.ascontiguousarray(self._lengths, np.int64).tobytes(), digest_size=8)
        lengths.update(self._has_images.tobytes())
        return {**settings, 'mega_batch': self.mega_batch, 'lengths': lengths.hexdigest()}

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from its first batch on."""
        self.epoch, self.start = epoch, 0

    def set_start(self, batch: int) -> None:
        """Let the next iteration begin at this batch of the epoch (0: from the front); the one after it begins at 0.

        Raises:
            ConfigError: the epoch has fewer batches, as when the dataset or the batch size was changed.
        """
        if not 0 <= batch <= len(self):
            raise ConfigError(
                f'cannot start at batch {batch} of an epoch of {len(self)}',
                fix='resume with the dataset, batch_size and number of ranks that the run began with',
            )
        self.start = batch

    def __iter__(self) -> Iterator[list[int]]:
        start, self.start = self.start, 0
        order = self._order()
        for k in range(start, len(self)):
            batch = order[k * self.global_batch : (k + 1) * self.global_batch]
            if len(batch) == self.global_batch:
                yield batch[self.rank * self.batch_size : (self.rank + 1) * self.batch_size].tolist()
            else:
                share = -(-len(batch) // self.world_size)
                missing = share * self.world_size - len(batch)
                batch = np.concatenate([batch, np.resize(order, missing)]) if missing else batch
                yield batch[self.rank * share : (self.rank + 1) * share].tolist()

    def _order(self) -> np.ndarray:
        """All samples in the order of this epoch, the same on every rank."""
        if not self.shuffle:
            return np.arange(self.size)
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(self.size)
        return order if self._lengths is None else self._grouped(order, rng)

    def _grouped(self, order: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        with_images = self._has_images[order]
        whole, rest = [], []
        for kind in (order[with_images], order[~with_images]):
            sorted_ = self._sort_in_mega_batches(kind)
            full = len(sorted_) // self.global_batch * self.global_batch
            whole.append(sorted_[:full])
            rest.append(sorted_[full:])
        # The leftovers of both kinds form the last batches, at most one of them mixed.
        rest = np.concatenate(rest)
        full = len(rest) // self.global_batch * self.global_batch
        batches = np.concatenate([*whole, rest[:full]]).reshape(-1, self.global_batch)
        batches = batches[rng.permutation(len(batches))]
        if len(batches):
            longest = int(self._lengths[batches].max(axis=1).argmax())
            batches[[0, longest]] = batches[[longest, 0]]
        return np.concatenate([batches.reshape(-1), rest[full:]])

    def _sort_in_mega_batches(self, order: np.ndarray) -> np.ndarray:
        step = self.global_batch * self.mega_batch
        chunks = [order[i : i + step] for i in range(0, len(order), step)]
        return np.concatenate([c[np.argsort(-self._lengths[c], kind='stable')] for c in chunks] or [order])


def _column(dataset: Any, name: str, size: int) -> np.ndarray:
    values: Sequence[int] | None = getattr(dataset, name, None)
    if values is None or len(values) != size:
        raise ConfigError(
            f'group_by_length needs `{name}` of the dataset, one for each sample; {type(dataset).__name__} has '
            + ('none' if values is None else f'{len(values)} for {count_of(size, "sample")}'),
            fix='use ChatDataset, or leave group_by_length out',
        )
    return np.asarray(values)
