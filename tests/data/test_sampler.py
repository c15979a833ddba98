"""``EpochBatchSampler``: every sample once, the same for everyone, and resumable at any batch."""

from __future__ import annotations

import numpy as np
import pytest
from torch.utils.data import DataLoader

from mmft.data.batches.sampler import EpochBatchSampler
from mmft.errors import ConfigError
from mmft.registry import SAMPLERS

CASES = [
    dict(n=n, batch_size=b, world=w, group=g, drop_last=d)
    for n in (1, 7, 64, 333)
    for b in (1, 4)
    for w in (1, 3)
    for g in (False, True)
    for d in (False, True)
    if not (d and n < b * w)
]


class Lengths:
    """A dataset that knows its lengths and is nothing else."""

    def __init__(self, n, seed=0):
        rng = np.random.default_rng(seed)
        self.lengths, self.num_images = rng.integers(1, 2000, n), rng.integers(0, 3, n)

    def __len__(self):
        return len(self.lengths)

    def __getitem__(self, i):
        return i


def ranks(dataset, epoch=0, start=0, *, batch_size=2, world=1, group=False, drop_last=False, **kwargs):
    """The batches of every rank."""
    result = []
    for rank in range(world):
        sampler = EpochBatchSampler(
            dataset,
            batch_size,
            group_by_length=group,
            drop_last=drop_last,
            rank=rank,
            world_size=world,
            mega_batch=4,
            **kwargs,
        )
        sampler.set_epoch(epoch)
        sampler.set_start(start)
        result.append(list(sampler))
        assert len(result[-1]) == len(sampler) - start
    return result


@pytest.mark.parametrize('case', CASES, ids=str)
def test_every_sample_once_and_ranks_in_step(case):
    case = dict(case)
    n, world, size = case.pop('n'), case['world'], case['batch_size']
    for epoch in range(3):
        batches = ranks(Lengths(n), epoch, **case)
        seen = [i for rank in batches for batch in rank for i in batch]
        assert len({len(rank) for rank in batches}) == 1
        assert all(1 <= len(batch) <= size for rank in batches for batch in rank)
        for k in range(len(batches[0])):
            assert len({len(rank[k]) for rank in batches}) == 1
        if case['drop_last']:
            assert len(seen) == len(set(seen)) == n // (size * world) * size * world
        else:
            assert set(seen) == set(range(n))
            assert len(seen) - n <= world - 1


@pytest.mark.parametrize('group', [False, True])
@pytest.mark.parametrize('world', [1, 3])
def test_starting_at_k_gives_what_an_unbroken_epoch_gives(group, world):
    dataset = Lengths(101)
    whole = ranks(dataset, 2, world=world, group=group)
    for k in (0, 1, 5, len(whole[0]) - 1, len(whole[0])):
        part = ranks(dataset, 2, k, world=world, group=group)
        assert part == [rank[k:] for rank in whole]


def test_start_counts_once_and_set_epoch_begins_anew():
    sampler = EpochBatchSampler(range(10), 2, rank=0, world_size=1)
    first = list(sampler)
    sampler.set_start(3)
    assert len(sampler) == 5
    assert list(sampler) == first[3:]
    assert list(sampler) == first
    sampler.set_start(3)
    sampler.set_epoch(1)
    assert len(list(sampler)) == 5


def test_epochs_and_seeds_differ_and_repeat():
    orders = [str(ranks(range(50), e, seed=s)) for s in (0, 1) for e in (0, 1)]
    assert len(set(orders)) == 4
    assert str(ranks(range(50), 1, seed=1)) == orders[3]
    assert ranks(range(5), 3, shuffle=False) == [[[0, 1], [2, 3], [4]]]


def test_order_ignores_and_leaves_alone_the_global_rng():
    # LLaVA's sampler shuffles inside its mega-batches with the global RNG (golden README 4.1).
    np.random.seed(1)
    a, state = ranks(Lengths(60), group=True), np.random.get_state()[1].copy()
    np.random.seed(2)
    assert ranks(Lengths(60), group=True) == a
    np.random.seed(1)
    assert (np.random.get_state()[1] == state).all()


def _padding(batches, lengths):
    return sum(len(b) * lengths[b].max() - lengths[b].sum() for b in batches) / lengths.sum()


def test_grouping_saves_padding_and_keeps_kinds_apart():
    dataset = Lengths(400, seed=3)
    grouped = ranks(dataset, batch_size=4, group=True)[0]
    plain = ranks(dataset, batch_size=4)[0]
    assert _padding(grouped, dataset.lengths) < 0.4 * _padding(plain, dataset.lengths)
    mixed = [b for b in grouped if len({dataset.num_images[i] > 0 for i in b}) > 1]
    assert len(mixed) <= 1
    assert dataset.lengths.max() in dataset.lengths[grouped[0]]
    other = ranks(dataset, 1, batch_size=4, group=True)[0]
    assert sorted(map(sorted, other)) != sorted(map(sorted, grouped))


@pytest.mark.parametrize('workers', [0, 2])
def test_workers_do_not_change_the_sequence(workers):
    sampler = EpochBatchSampler(range(11), 2, rank=0, world_size=1, seed=5)
    loader = DataLoader(range(11), batch_sampler=sampler, num_workers=workers, collate_fn=list)
    sampler.set_epoch(4)
    sampler.set_start(2)
    assert list(loader) == ranks(range(11), 4, 2, seed=5)[0]
    assert len(loader) == 6


def test_registered():
    sampler = SAMPLERS.build(dict(type='EpochBatchSampler', batch_size=3), default_args=dict(dataset=range(4)))
    assert len(sampler) == 2


@pytest.mark.parametrize(
    ('kwargs', 'words'),
    [
        (dict(batch_size=0), 'batch_size=0'),
        (dict(batch_size=2.0), 'batch_size=2.0'),
        (dict(shuffle=False, group_by_length=True), 'shuffle=True'),
        (dict(batch_size=11, drop_last=True), '10 samples cannot fill a batch of 11'),
        (dict(rank=2, world_size=2), 'rank 2 of 2'),
        (dict(group_by_length=True), 'needs `lengths`'),
    ],
)
def test_wrong_arguments(kwargs, words):
    with pytest.raises(ConfigError, match=words):
        EpochBatchSampler(range(10), **{'rank': 0, 'world_size': 1, **kwargs})


def test_an_empty_dataset_and_a_start_beyond_the_end():
    with pytest.raises(ConfigError, match='check the dataset'):
        EpochBatchSampler([], rank=0, world_size=1)
    with pytest.raises(ConfigError, match='batch 6 of an epoch of 5'):
        EpochBatchSampler(range(10), 2, rank=0, world_size=1).set_start(6)
