"""Several annotation sets in one: InternVL's meta file, repeat times, weights.

The meta file is ``{name: {"root": ..., "annotation": ..., "repeat_time": ...}}``; ``weight`` is mmft's addition to it.
"""

from __future__ import annotations

import logging
import math
import os.path
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmft.checks import is_number, is_whole
from mmft.data.records.annotations import read_json
from mmft.errors import ConfigError, DataError
from mmft.words import clipped, count_of, near_names, suggested

__all__ = ['SetSpec', 'mix', 'read_meta']

logger = logging.getLogger('mmft')


_MOST_SAMPLES = 2**31
"""In an epoch; their numbers alone take 16 bytes each."""

_KEYS = {
    'root',
    'annotation',
    'repeat_time',
    'weight',
    'length',
    'data_augment',
    'max_dynamic_patch',
    'min_dynamic_patch',
    'format',
}


@dataclass(frozen=True, slots=True)
class SetSpec:
    """One set of a mixture.

    Attributes:
        name: its name in the meta file.
        ann_file: its annotation file.
        image_root: where its pictures lie; None: beside the annotation file.
        repeat_time: how often it is seen in an epoch; fractions count (0.5: a seeded half).
        weight: its share of an epoch relative to the other sets' weights, instead of ``repeat_time``.
        length: how many records it must have, where the meta file says so.
        format, conversations: see :func:`mmft.data.records.formats.parse_record`.
        tiles: ``min_tiles`` and ``max_tiles`` of its pictures, where they differ from the encoder's.
        data_augment: whether its tiles are re-encoded as JPEG in training.
        meta_file: the file that names it; None: a dict did, or there is no meta file.
    """

    name: str
    ann_file: Path
    image_root: Path | None = None
    repeat_time: float = 1.0
    weight: float | None = None
    length: int | None = None
    format: str = 'auto'
    conversations: str = 'llava'
    tiles: Mapping[str, int] | None = None
    data_augment: bool = False
    meta_file: Path | None = None

    @property
    def label(self) -> str:
        """What errors call it.

        >>> SetSpec('food', Path('food.jsonl'), meta_file=Path('meta.json')).label
        "the set 'food' of meta.json"
        """
        if not self.name:
            return str(self.ann_file)
        return f'the set {self.name!r} of {self.meta_file or "`meta_file`"}'


def read_meta(
    meta: str | Path | Mapping[str, Any], image_root: str | Path | None = None, format: str = 'auto'
) -> list[SetSpec]:
    """Read a meta file, or the dict it would hold.

    Relative paths start at the working directory, as InternVL's do; what is not found there is looked for beside the
    meta file. Records that look like LLaVA's are read by InternVL's rules (``internvl`` in
    :mod:`mmft.data.records.formats`).

    Args:
        meta: the file or its content.
        image_root: the root of sets that name none.
        format: the format of sets that name none.

    Raises:
        DataError: the file is no such table.
    """
    file = None if isinstance(meta, Mapping) else Path(meta)
    table = meta if isinstance(meta, Mapping) else read_json(meta)
    if not isinstance(table, Mapping) or not table:
        raise DataError(
            f'the meta file holds a {type(table).__name__}{"" if table else " without entries"}',
            file=file,
            expected='{"name": {"root": ..., "annotation": ..., "repeat_time": 1}}',
        )
    specs = []
    for name, entry in table.items():
        try:
            specs.append(_spec(name, entry, file, image_root, format))
        except DataError as error:
            raise (error if file is None else error.at(file)) from None
    weighted = [s.name for s in specs if s.weight is not None]
    if weighted and (len(weighted) != len(specs) or any(s.repeat_time != 1 for s in specs)):
        raise DataError(
            f'only some sets have a weight ({weighted}), or a repeat_time beside it',
            file=file,
            expected='either a `weight` in every set or `repeat_time`s',
        )
    return specs


def _spec(name: str, entry: Any, file: Path | None, image_root: str | Path | None, format: str) -> SetSpec:
    if not isinstance(name, str) or not name.strip():
        raise DataError(f'a set is named {clipped(repr(name))}', expected='a name')
    if not isinstance(entry, Mapping) or 'annotation' not in entry:
        raise DataError(f'the set {name!r} has no `annotation`', expected='{"root": ..., "annotation": ...}')
    for key in sorted(entry.keys() - _KEYS, key=str):
        raise DataError(
            f'the set {name!r} has an unknown key {clipped(repr(key))}',
            expected=f'one of {sorted(_KEYS)}',
            fix=suggested(near_names(key, sorted(_KEYS)), 'remove it'),
        )
    numbers = {k: _positive(name, k, entry[k]) for k in ('repeat_time', 'weight') if entry.get(k) is not None}
    root = image_root if entry.get('root') in (None, '') else entry['root']
    tiles = {
        ours: _count(name, theirs, entry[theirs])
        for ours, theirs in (('min_tiles', 'min_dynamic_patch'), ('max_tiles', 'max_dynamic_patch'))
        if entry.get(theirs) is not None
    }
    return SetSpec(
        name=name,
        ann_file=_find(name, 'annotation', entry['annotation'], file),
        image_root=None if root is None else _find(name, 'root', root, file),
        repeat_time=numbers.get('repeat_time', 1.0),
        weight=numbers.get('weight'),
        length=None if entry.get('length') is None else _count(name, 'length', entry['length']),
        format=_format(name, entry.get('format')) or format,
        conversations='internvl',
        tiles=tiles or None,
        data_augment=_flag(name, 'data_augment', entry.get('data_augment')),
        meta_file=file,
    )


def _format(name: str, value: Any) -> str:
    if value not in (None, '') and not isinstance(value, str):
        raise DataError(f'`format` of the set {name!r} is {clipped(repr(value))}', expected='the name of a format')
    return value or ''


def _flag(name: str, key: str, value: Any) -> bool:
    if value not in (None, True, False):  # the original takes anything
        # Finished text: mmengine's handlers would drop the second set's warning as a repetition of the first's.
        logger.warning(f'`{key}` of the set {name!r} is {clipped(repr(value))}, taken as {bool(value)}')
    return bool(value)


def _find(name: str, key: str, path: Any, file: Path | None) -> Path:
    if not isinstance(path, (str, Path)) or not str(path).strip():
        raise DataError(f'`{key}` of the set {name!r} is {clipped(repr(path))}', expected='a path')
    here = Path(path)
    # os.path.exists: of a path that cannot be one it says False, where Path.exists raises
    if here.is_absolute() or file is None or os.path.exists(here):
        return here
    beside = file.parent / here
    return beside if os.path.exists(beside) else here


def _positive(name: str, key: str, value: Any) -> float:
    if not is_number(value) or not value > 0:
        raise DataError(
            f'`{key}` of the set {name!r} is {clipped(repr(value))}',
            expected='a number above 0, fractions allowed',
            fix='leave the set out of the meta file if it is not wanted',
        )
    return float(value)


def _count(name: str, key: str, value: Any) -> int:
    if not is_whole(value, least=1):
        raise DataError(f'`{key}` of the set {name!r} is {clipped(repr(value))}', expected='a whole number from 1')
    return value


def mix(
    sizes: Sequence[int],
    repeats: Sequence[float],
    weights: Sequence[float] | None = None,
    seed: int = 0,
    names: Sequence[str] = (),
) -> np.ndarray:
    """Which samples make an epoch of a mixture.

    A repeat time of 2.5 gives every sample twice and a seeded half of them once more (rounded down). Weights keep the
    epoch as long as all sets together and divide it in proportion.

    Args:
        sizes: samples of each set.
        repeats: how often each set is seen (ignored with ``weights``).
        weights: relative shares.
        seed: chooses the samples of a fraction.
        names: of the sets, for errors.

    Returns:
        (n,2) int64: set and sample, set after set.

    Raises:
        ConfigError: a set would give no sample at all.

    >>> mix([2, 4], [1, 0.5]).shape
    (4, 2)
    """
    if weights is None:
        # 1e-6: 0.29 * 100 is 28.999999999999996 in floating point and means 29
        counts = [int(size * repeat + 1e-6) for size, repeat in zip(sizes, repeats, strict=True)]
    else:
        counts = _shares(sum(sizes), weights)
    if sum(counts) > _MOST_SAMPLES:
        raise ConfigError(
            f'{count_of(sum(counts), "sample")} in an epoch, of {count_of(sum(sizes), "record")}',
            expected=f'at most {_MOST_SAMPLES:,}',
            fix='lower repeat_time, and train more epochs or iterations instead',
        )
    rows = []
    for n, (size, count) in enumerate(zip(sizes, counts, strict=True)):
        if not count or not size:
            raise ConfigError(
                f'{names[n] if names else f"set {n + 1} of {len(sizes)}"} would give no samples: '
                f'{count_of(size, "record")}, '
                + (f'repeat_time {repeats[n]}' if weights is None else f'weight {weights[n]} of {sum(weights)}'),
                expected='at least one sample of every set',
                fix='raise its repeat_time or weight, or leave it out',
            )
        order = np.random.default_rng([seed, n]).permutation(size)
        chosen = np.concatenate([np.tile(np.arange(size), count // size), np.sort(order[: count % size])])
        rows.append(np.stack([np.full(count, n), chosen], axis=1))
    return np.concatenate(rows).astype(np.int64)


def _shares(total: int, weights: Sequence[float]) -> list[int]:
    """``total`` in proportion to ``weights``, by largest remainders, so that the parts add up."""
    if math.isinf(total * max(weights)) or math.isinf(sum(weights)):
        weights = [w / max(weights) for w in weights]
    exact = [total * w / sum(weights) for w in weights]
    counts = [int(x) for x in exact]
    by_rest = sorted(range(len(exact)), key=lambda i: counts[i] - exact[i])
    for i in by_rest[: total - sum(counts)]:
        counts[i] += 1
    return counts
