"""How far a mean can be trusted: percentile bootstrap intervals."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from mmft.errors import DataError

__all__ = ['Interval', 'interval']

_AT_ONCE = 256  # resamples; bounds the memory of their counts


class Interval(NamedTuple):
    """A mean, and the interval in which it lies with the given confidence."""

    value: float
    low: float
    high: float


def interval(
    scores: Sequence[float],
    groups: Sequence[Hashable] | None = None,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """The mean of ``scores`` with its bootstrap interval.

    For two models on the same questions pass the differences of their scores: pairs are then resampled together. An
    interval without width says that all scores are equal, not that the mean is certain.

    Args:
        scores: one for each question.
        groups: of each question, what it shares with others, such as its picture: whole groups are resampled, since
            questions about one picture say less than questions about as many pictures.
        level: the confidence.
        resamples: how many.
        seed: of the draws.

    Raises:
        DataError: no scores.

    >>> interval([0.0, 1.0] * 50)
    Interval(value=0.5, low=0.4, high=0.6)
    """
    values = np.asarray(scores, dtype=np.float64)
    if not len(values):
        raise DataError('no scores', expected='at least one answered question')
    _, member = np.unique(_numbers(groups if groups is not None else range(len(values))), return_inverse=True)
    sums, sizes = np.bincount(member, values), np.bincount(member)
    rng, count = np.random.default_rng(seed), len(sums)
    means = []
    for start in range(0, resamples, _AT_ONCE):
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=min(_AT_ONCE, resamples - start))
        means.append((drawn @ sums) / (drawn @ sizes))
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return Interval(float(values.mean()), float(low), float(high))


def _numbers(groups: Sequence[Hashable]) -> list[int]:
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(group, len(numbers)) for group in groups]
