"""What the pictures are worth: the loss of samples with their own pictures beside that with each other's.

A model that answers from the text alone can have a loss that looks good. Its pictures then change nothing, and this
shows it, whatever the loss of a good model would be.
"""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch

from mmft.engine.strategies.collectives import gather
from mmft.structures import IGNORE_INDEX, Sample

__all__ = ['Exchange', 'Pair', 'exchange_pictures', 'measure', 'with_pictures_of']

FEWEST = 8
"""Pairs from which something is concluded."""

LITTLE = 0.02
"""A gain below this part of the loss counts as none, however sure it is."""


@dataclass(frozen=True)
class Pair:
    """The summed loss of a sample with its own pictures and with another's, in nats, and its trained tokens."""

    own: float
    exchanged: float
    tokens: float


@dataclass(frozen=True)
class Exchange:
    """What the pairs of all ranks say."""

    pairs: Sequence[Pair]

    @property
    def own(self) -> float:
        """Loss per token with their own pictures."""
        return sum(pair.own for pair in self.pairs) / sum(pair.tokens for pair in self.pairs)

    @property
    def exchanged(self) -> float:
        """Loss per token with others' pictures."""
        return sum(pair.exchanged for pair in self.pairs) / sum(pair.tokens for pair in self.pairs)

    @property
    def nothing(self) -> bool:
        """Whether the pictures change nothing: the mean gain of the pairs is small, or within two standard errors."""
        gains = [pair.exchanged - pair.own for pair in self.pairs]
        if len(gains) < FEWEST:
            return False
        noise = 2 * statistics.stdev(gains) / len(gains) ** 0.5
        return statistics.fmean(gains) <= max(noise, LITTLE * statistics.fmean(pair.own for pair in self.pairs))


def exchange_pictures(samples: Sequence[Sample], image_token_id: int | None = None) -> list[tuple[Sample, Sample]]:
    """Each sample beside itself with the pictures of the next sample that has others, and another answer if one has.

    (In a set that is sorted by answer, or asks much about one picture, the very next would change little.)

    Args:
        samples: with pictures.
        image_token_id: id of the placeholders; None where pictures have none.
    """
    pixels = [hashlib.blake2b(sample.pixel_values.numpy().tobytes()).digest() for sample in samples]
    answers = [tuple(sample.labels[sample.labels != IGNORE_INDEX].tolist()) for sample in samples]
    pairs = []
    for i, sample in enumerate(samples):
        others = [(i + step) % len(samples) for step in range(1, len(samples))]
        others = [j for j in others if pixels[j] != pixels[i]]
        others.sort(key=lambda j: answers[j] == answers[i])  # stable: the nearest of those with another answer first
        made = (with_pictures_of(sample, samples[j], image_token_id) for j in others)
        if (other := next((one for one in made if one is not None), None)) is not None:
            pairs.append((sample, other))
    return pairs


def with_pictures_of(sample: Sample, other: Sample, image_token_id: int | None) -> Sample | None:
    """The text of one sample with the pictures of another, as the encoder would make it; None where that is impossible.

    Pictures of other sizes take other numbers of placeholders. A sample of more pictures gets the other's again.
    """
    chosen = [k % len(other.num_tiles) for k in range(len(sample.num_tiles))]
    tiles = other.pixel_values.split(other.num_tiles)
    changed = replace(
        sample,
        pixel_values=torch.cat([tiles[k] for k in chosen]),
        num_tiles=[other.num_tiles[k] for k in chosen],
        image_sizes=[other.image_sizes[k] for k in chosen] if other.image_sizes else [],
        image_grids=[other.image_grids[k] for k in chosen] if other.image_grids else [],
        num_slots=[other.num_slots[k] for k in chosen] if other.num_slots else [],
    )
    if changed.num_slots == sample.num_slots:
        return changed if changed.num_tiles == sample.num_tiles or sample.num_slots else None
    if image_token_id is None or not changed.num_slots:
        return None
    places = (sample.input_ids == image_token_id).nonzero().flatten()
    if len(places) != sum(sample.num_slots):
        return None
    repeats = torch.ones_like(sample.input_ids)
    repeats[places] = 0
    repeats[places[[0, *accumulate(sample.num_slots[:-1])]]] = torch.tensor(changed.num_slots)
    changed.input_ids = sample.input_ids.repeat_interleave(repeats)
    changed.labels = sample.labels.repeat_interleave(repeats)
    return changed


def measure(
    samples: Sequence[Sample], image_token_id: int | None, loss: Callable[[Sample], tuple[float, float]]
) -> Exchange | None:
    """Exchange the pictures of samples; a collective call. None where there are none to be exchanged.

    Args:
        samples: of this rank.
        image_token_id: see ``exchange_pictures``.
        loss: summed loss and trained tokens of a sample.
    """
    pairs = exchange_pictures(samples, image_token_id)
    same = min(gather(len(pairs)))  # under ZeRO-3 every rank has to make the same passes
    mine = []
    for own, other in pairs[:same]:
        (before, tokens), (after, _) = loss(own), loss(other)
        mine.append(Pair(before, after, tokens))
    every = [pair for share in gather(mine) for pair in share if pair.tokens]
    return Exchange(every) if every else None
