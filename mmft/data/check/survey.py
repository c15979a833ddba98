"""A whole data set, checked with several processes; what was found, grouped and counted."""

from __future__ import annotations

import bisect
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from mmft.data.check.record import KINDS, Problem, RecordCheck, check_record
from mmft.data.check.sources import Source
from mmft.data.convert.output import progress
from mmft.data.records.subset import Subset
from mmft.errors import DataError
from mmft.machine import cpu_count

__all__ = ['CheckedFile', 'Group', 'Survey', 'survey']

_PARALLEL_FROM = 200  # records; below, starting processes takes longer than the work
_NO_SAMPLE = ('record', 'picture', 'length')  # kinds of problems of which no sample comes
_MOST_ANSWERS = 20_000  # different answers that are counted separately


@dataclass(slots=True)
class Group:
    """Problems that are the same but for names and numbers.

    Attributes:
        what, expected, fix: of the first.
        note: whether it is worth knowing rather than wrong.
        places: ``part, file, line, what`` of each; line is None where a whole file is meant.
    """

    kind: str
    what: str
    expected: str
    fix: str
    note: bool = False
    places: list[tuple[str, str, int | None, str]] = field(default_factory=list)


@dataclass(slots=True)
class CheckedFile:
    """One annotation file, checked: a row for each record; -1 where a number is not known.

    Attributes:
        flaws: the kinds of problems of each record.
        sound: whether a sample can be made of it.
    """

    part: str
    name: str
    file: str
    subset: Subset | None = None
    tokens: list[int] = field(default_factory=list)
    trained: list[int] = field(default_factory=list)
    tiles: list[int] = field(default_factory=list)
    pictures: list[int] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    many_answers: bool = False
    sound: list[bool] = field(default_factory=list)
    flaws: list[frozenset[str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.sound)

    def good(self, allow: Sequence[str] = ()) -> int:
        """How many records no problem names, but for the kinds in ``allow``."""
        return sum(not flaws.difference(allow) for flaws in self.flaws)


@dataclass(slots=True)
class Survey:
    """What was found.

    Attributes:
        parts: the files in the order of the config.
        groups: the problems, the most frequent first.
        max_length, too_long: of the encoder, None without one.
        decoded: whether pictures were decoded and labels checked.
    """

    parts: list[CheckedFile]
    groups: list[Group]
    max_length: int | None = None
    too_long: str | None = None
    decoded: bool = True

    def problems(self, allow: Sequence[str] = ()) -> int:
        """How many problems there are, but for notes and the kinds in ``allow``."""
        return sum(len(group.places) for group in self.groups if not group.note and group.kind not in allow)

    def records(self) -> int:
        """How many records there are."""
        return sum(map(len, self.parts))

    def good(self, allow: Sequence[str] = ()) -> int:
        """How many records no problem names, but for the kinds in ``allow``."""
        return sum(part.good(allow) for part in self.parts)


def survey(sources: Sequence[Source], encoder: Any = None, decode: bool = True, workers: int | None = None) -> Survey:
    """Check every record.

    Args:
        sources: what to check.
        encoder: the config's; without one nothing is counted in tokens.
        decode: decode pictures and check labels; else headers and token counts, which is several times as fast.
        workers: processes; None: one for each core from a few hundred records on, at most 16.
    """
    notes = _Notes()
    parts: list[CheckedFile] = []
    for source in sources:
        for spec in source.specs:
            part = CheckedFile(source.part, spec.name, str(spec.ann_file))
            parts.append(part)

            def note(error: DataError, part: CheckedFile = part) -> None:
                notes.add(part, error.line, Problem.of('record', error))

            try:
                part.subset = Subset(
                    spec, encoder, source.follow_links, note, source.min_side, source.max_pixels, source.ignore_keys
                )
            except DataError as error:
                notes.add(part, error.line, Problem.of('file', error), error.file)
    opened = [part for part in parts if part.subset is not None]
    looks = _Looks([part.subset for part in opened], decode)
    seen = _Seen(notes)
    for (s, i), found in zip(looks.rows(), progress(_all(looks, workers), 'looking', len(looks)), strict=True):
        part = opened[s]
        _count(part, found)
        for problem in found.problems:
            notes.add(part, part.subset.file.line(i), problem, record=i)
        for note_of in found.notes:
            notes.add(part, part.subset.file.line(i), note_of, note=True)
        seen.add(s, part, i, found)
    seen.finish(opened)
    groups = sorted(notes.groups.values(), key=lambda group: (list(KINDS).index(group.kind), -len(group.places)))
    limits = (None, None) if encoder is None else (encoder.max_length, encoder.too_long)
    return Survey(parts, groups, *limits, decode)


def _count(part: CheckedFile, found: RecordCheck) -> None:
    part.tokens.append(found.tokens)
    part.trained.append(found.trained)
    part.tiles.append(found.tiles)
    part.pictures.append(len(found.pictures))
    part.sound.append(not any(problem.kind in _NO_SAMPLE for problem in found.problems))
    part.flaws.append(frozenset())
    if found.answer:
        if found.answer in part.answers or len(part.answers) < _MOST_ANSWERS:
            part.answers[found.answer] += 1
        else:
            part.many_answers = True


class _Notes:
    """Problems by what they have in common."""

    def __init__(self) -> None:
        self.groups: dict[tuple[str, str], Group] = {}

    def add(
        self,
        part: CheckedFile,
        line: int | None,
        problem: Problem,
        file: str | None = None,
        note: bool = False,
        record: int | None = None,
    ) -> None:
        key = problem.kind, _shape(problem.what)
        if key not in self.groups:
            self.groups[key] = Group(problem.kind, problem.what, problem.expected, problem.fix, note)
        self.groups[key].places.append((part.part, file or part.file, line, problem.what))
        if record is not None:
            part.flaws[record] |= {problem.kind}


def _shape(text: str) -> str:
    """A message without what differs from record to record.

    >>> _shape('/data/a b.jpg: a picture of 1 x 7 px') == _shape('/data/c.jpg: a picture of 2 x 1 px')
    True
    """
    text = re.sub(r'^[^\n]*[/\\][^\n]*?\.\w+: ', '', text)
    text = re.sub(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|\[[^\]]*\]|\{[^}]*\}", '…', text)
    return re.sub(r'\d[\d,.]*', 'N', text)


class _Seen:
    """What only shows between records: ids and records that occur again, pictures on both sides."""

    def __init__(self, notes: _Notes) -> None:
        self.notes = notes
        self.ids: dict[tuple[int, str], int] = {}
        self.records: dict[bytes, tuple[CheckedFile, int]] = {}
        self.pictures: dict[str, dict[str, tuple[CheckedFile, int]]] = {}

    def add(self, s: int, part: CheckedFile, i: int, found: RecordCheck) -> None:
        line = part.subset.file.line(i)
        if found.key is not None:
            first = self.ids.setdefault((s, found.key), i)
            if first != i:
                what = f'the id {found.key!r} is that of line {part.subset.file.line(first)} too'
                fix = 'renumber the records; or --allow duplicate-id: training does not use ids'
                self.notes.add(part, line, Problem('duplicate-id', what, 'an id of its own', fix), record=i)
        if found.digest:
            other, first = self.records.setdefault(found.digest, (part, i))
            if (other is part, first) != (True, i):
                place = other.subset.file.line(first)
                where = f'line {place}' if other is part else f'{other.file}:{place}'
                fix = 'remove one; to see a record more often, use repeat_time'
                problem = Problem('duplicate-record', f'the same pictures and texts as {where}', '', fix)
                self.notes.add(part, line, problem, record=i)
        for path in found.pictures:
            self.pictures.setdefault(path, {}).setdefault(part.part, (part, i))

    def finish(self, parts: Iterable[CheckedFile]) -> None:
        """Pictures that are trained on and validated with."""
        if len({part.part for part in parts}) < 2:
            return
        for path, places in self.pictures.items():
            if len(places) > 1:
                (first, trained), (other, i) = list(places.values())[:2]
                what = f'{path}: trained on in {first.file}:{first.subset.file.line(trained)}'
                fix = 'take it out of one: a validation on what was trained says nothing'
                problem = Problem('shared-picture', what, 'pictures that were not trained on', fix)
                self.notes.add(other, other.subset.file.line(i), problem, record=i)


class _Looks(Dataset):
    """The checks of the records of some sets, for a DataLoader to share among its workers."""

    def __init__(self, subsets: Sequence[Subset], decode: bool) -> None:
        self.subsets, self.decode = list(subsets), decode
        self.ends = list(accumulate(len(subset.file) for subset in subsets))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def rows(self) -> Iterable[tuple[int, int]]:
        return ((s, i) for s, subset in enumerate(self.subsets) for i in range(len(subset.file)))

    def __getitem__(self, n: int) -> RecordCheck:
        s = bisect.bisect_right(self.ends, n)
        return check_record(self.subsets[s], n - (self.ends[s - 1] if s else 0), self.decode)


def _all(looks: _Looks, workers: int | None) -> Iterable[RecordCheck]:
    if workers is None:
        cores = cpu_count()
        workers = min(16, cores) if len(looks) >= _PARALLEL_FROM and cores > 1 else 0
    if not workers or not len(looks):
        return (looks[n] for n in range(len(looks)))
    loader = DataLoader(
        looks, batch_size=16, num_workers=workers, collate_fn=list, generator=torch.Generator().manual_seed(0)
    )
    return (found for batch in loader for found in batch)
