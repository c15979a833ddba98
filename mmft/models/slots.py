"""Placeholders and features, compared picture by picture: as many in all may still be other pictures' places."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from mmft.errors import ShapeError
from mmft.models.merge import AnyResMerge
from mmft.words import count_of

__all__ = ['check_slots', 'run_ends']


def run_ends(slots: Tensor) -> list[int]:
    """For every run of marked places the number of marks up to its end, row after row; one wait for the device.

    >>> run_ends(torch.tensor([[True, True, False], [False, False, True]]))
    [2, 3]
    """
    last = slots & ~torch.nn.functional.pad(slots[:, 1:], (0, 1))
    counts = (slots.flatten().cumsum(0) * last.flatten()).cpu()
    return counts[counts > 0].tolist()


def check_slots(
    ends: list[int], counts: list[int], merge: AnyResMerge | None = None, encoded: Sequence[int] | None = None
) -> None:
    """Every run of placeholders ends where the features of a picture (of a tile, without a merge) end.

    Args:
        ends: see ``run_ends``; as many in all as ``counts``.
        counts: features of each picture, or tile.
        merge: of the model.
        encoded: placeholders that the encoder made of each picture, where it says so. Pictures that stand side by side
            in a text form one run.

    Raises:
        ShapeError: names the first picture that has other places.
    """
    known = list(accumulate(counts))
    what = 'tile' if merge is None else 'picture'
    fix = 'encode with the ChatEncoder that was saved with this model'
    if merge is not None:
        fix += f', which has AnyResTiler(mode={merge.mode!r})'
    pairs = enumerate(zip(encoded or counts, counts, strict=False), 1)
    if (wrong := next(((n, pair) for n, pair in pairs if pair[0] != pair[1]), None)) is not None:
        number, (placeholders, features) = wrong
        came = f'{count_of(placeholders, "image placeholder")} for picture {number} of the batch'
        came += f', which has {count_of(features, "feature")}'
    elif (end := next(iter(sorted(set(ends) - set(known))), None)) is not None:
        number = next(n for n, place in enumerate(known, 1) if place > end)
        before = known[number - 1] - counts[number - 1]
        came = f'a run of image placeholders ends after {end - before} of the {counts[number - 1]} features of a {what}'
    else:
        return
    raise ShapeError(
        f'{came}; the {known[-1]} in all are as many',
        expected=f'as many placeholders as features of each {what}',
        fix=fix,
    )
