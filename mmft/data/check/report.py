"""A survey in words for the terminal, and as plain types for JSON."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmft.data.check.survey import CheckedFile, Group, Survey
from mmft.words import count_of, printable

__all__ = ['Histogram', 'different_answers', 'histogram', 'span', 'text', 'to_json', 'too_long']

_BINS = 16
_ANSWERS = 12  # shown
_CLASSES = 50  # as many different answers, or fewer, are classes


@dataclass(frozen=True)
class Histogram:
    """Counts of whole numbers in steps of equal width.

    Attributes:
        step: width of a step.
        counts: of the steps ``first, first + step...``.
        open: whether the last step takes everything above it too: one record of a hundred times the usual length
            would leave nothing to be seen of the others.
    """

    first: int
    step: int
    counts: tuple[int, ...]
    open: bool
    low: int
    high: int
    median: int
    p95: int
    mean: float

    def rows(self) -> list[tuple[int, int | None, int]]:
        """(from, to, count) of each step; an open one has no end."""
        last = len(self.counts) - 1
        starts = [self.first + n * self.step for n in range(last + 1)]
        ends = [None if self.open and n == last else start + self.step - 1 for n, start in enumerate(starts)]
        return list(zip(starts, ends, self.counts, strict=True))


def span(low: int, high: int | None, between: str = ' - ') -> str:
    """A step in words.

    >>> span(0, 99), span(3, 3), span(2000, None)
    ('0 - 99', '3', '2,000 and more')
    """
    if high is None:
        return f'{low:,} and more'
    return f'{low:,}' if low == high else f'{low:,}{between}{high:,}'


def histogram(numbers: Sequence[int], bins: int = _BINS) -> Histogram | None:
    """At most ``bins`` steps of 1, 2 or 5 times a power of ten; None where there are no numbers (-1 does not count).

    >>> histogram([0, 3, 3, 9, -1]).rows()[3]
    (3, 3, 2)
    >>> histogram([100, 450, 1900]).rows()[0]
    (0, 199, 1)
    """
    known = np.array([n for n in numbers if n >= 0], dtype=np.int64)
    if not len(known):
        return None
    low, high = int(known.min()), int(known.max())
    median, p95 = (int(v) for v in np.percentile(known, (50, 95), method='inverted_cdf'))
    far = high > 3 * p95 and high - low >= bins
    top = p95 + max((p95 - low) // 2, bins) if far else high
    step = next(m * 10**e for e in range(12) for m in (1, 2, 5) if top // (m * 10**e) - low // (m * 10**e) < bins)
    first = low // step * step
    counts = np.bincount(np.minimum((known - first) // step, top // step - first // step + far))
    return Histogram(first, step, tuple(counts.tolist()), far, low, high, median, p95, float(known.mean()))


def text(survey: Survey, allow: Sequence[str] = (), places: int = 5) -> str:
    """The report for a terminal: files, problems, lengths, tiles, answers."""
    blocks = [_files(survey, allow), _problems(survey, allow, places), *_numbers(survey), *_answers(survey)]
    return printable('\n\n'.join(block for block in blocks if block)) + '\n'


def to_json(survey: Survey, allow: Sequence[str] = ()) -> dict[str, Any]:
    """The report as plain types: every place of every problem, histograms, answers."""
    return {
        'version': 1,
        'ok': not survey.problems(allow),
        'records': survey.records(),
        'good': survey.good(allow),
        'max_length': survey.max_length,
        'decoded': survey.decoded,
        'allowed': list(allow),
        'files': [
            {'part': part.part, 'name': part.name, 'file': part.file, 'records': len(part), 'good': part.good(allow)}
            for part in survey.parts
        ],
        'problems': [_plain_group(group) for group in survey.groups if not group.note],
        'notes': [_plain_group(group) for group in survey.groups if group.note],
        'tokens': _plain(histogram(_column(survey, 'tokens'))),
        'too_long': too_long(survey),
        'tiles': _plain(histogram(_column(survey, 'tiles'))),
        'answers': {
            part: {'different': len(counts), 'counted_all': not many, 'most_common': counts.most_common(_CLASSES)}
            for part, counts, many in _by_part(survey)
        },
    }


def _plain_group(group: Group) -> dict[str, Any]:
    places = [{'part': part, 'file': file, 'line': line, 'what': what} for part, file, line, what in group.places]
    return {
        'kind': group.kind, 'count': len(places), 'what': group.what, 'expected': group.expected, 'to_do': group.fix,
        'places': places,
    }  # fmt: skip


def too_long(survey: Survey) -> int | None:
    """How many records have more tokens than max_length; None where that is not known."""
    if survey.max_length is None:
        return None
    return sum(n > survey.max_length for n in _column(survey, 'tokens'))


def _plain(made: Histogram | None) -> dict[str, Any] | None:
    if made is None:
        return None
    keys = ('low', 'median', 'mean', 'p95', 'high', 'first', 'step', 'open')
    return {**{key: getattr(made, key) for key in keys}, 'counts': list(made.counts)}


def _column(survey: Survey, name: str) -> list[int]:
    return [number for part in survey.parts for number in getattr(part, name)]


def _by_part(survey: Survey) -> Iterator[tuple[str, Any, bool]]:
    """(part, answers of its files together, whether some were not counted)."""
    for name in dict.fromkeys(part.part for part in survey.parts):
        own = [part for part in survey.parts if part.part == name]
        yield name, sum((part.answers for part in own[1:]), own[0].answers), any(part.many_answers for part in own)


def _files(survey: Survey, allow: Sequence[str]) -> str:
    rows = [('part', 'file', 'records', 'without a problem')]
    rows += [(part.part, _name(part), f'{len(part):,}', f'{part.good(allow):,}') for part in survey.parts]
    if len(survey.parts) > 1:
        rows.append(('in all', '', f'{survey.records():,}', f'{survey.good(allow):,}'))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f'{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}  {d:>{widths[3]}}' for a, b, c, d in rows]
    if not survey.decoded:
        lines.append('pictures were not decoded and labels not checked (--headers)')
    return '\n'.join(lines)


def _name(part: CheckedFile) -> str:
    return f'{part.file} ({part.name})' if part.name else part.file


def _problems(survey: Survey, allow: Sequence[str], places: int) -> str:
    wrong = [group for group in survey.groups if not group.note]
    kinds = count_of(len({group.kind for group in wrong}), 'kind')
    records = survey.records()
    flawed = f' in {records - survey.good():,} of {count_of(records, "record")}' if records else ''
    lines = [f'{count_of(survey.problems(), "problem")} of {kinds}{flawed}:' if wrong else 'no problems']
    for group in wrong:
        lines += ['', *_group(group, places)]
        if group.kind in allow:
            lines.append(f'    allowed: --allow {group.kind}')
    if notes := [group for group in survey.groups if group.note]:
        lines += ['', 'worth knowing:', *(line for group in notes for line in ('', *_group(group, places)))]
    return '\n'.join(lines)


def _group(group: Group, places: int) -> Iterator[str]:
    count = len(group.places)
    yield f'{count:>7,} x {group.kind}: {group.what}'
    if group.expected:
        yield f'            expected: {group.expected}'
    if group.fix:
        yield f'            to do:    {group.fix}'
    for _, file, line, what in group.places[: places if count > places else count]:
        shown = what if what != group.what else ''
        yield f'            {file}{"" if line is None else f":{line}"}' + (f'  {shown}' if shown else '')
    if count > places:
        yield f'            ... and {count - places:,} more (--places {count}, or --json)'


def _numbers(survey: Survey) -> Iterator[str]:
    tokens, tiles = (histogram(_column(survey, name)) for name in ('tokens', 'tiles'))
    if tokens is not None:
        limit = too_long(survey)
        more = ''
        if limit is not None:
            fate = 'errors' if survey.too_long == 'error' else 'cut off'
            more = f'; {limit:,} longer than max_length={survey.max_length:,}' + (f' ({fate})' if limit else '')
        yield _chart('tokens', tokens, more)
    if tiles is not None:
        yield _chart('tiles', tiles, '')


def _chart(name: str, made: Histogram, more: str) -> str:
    lines = [
        f'{name} of a record: {span(made.low, made.high, " to ")}, median {made.median:,}, '
        f'95% have at most {made.p95:,}{more}'
    ]
    most = max(made.counts)
    rows = [(span(low, high), count) for low, high, count in made.rows()]
    width = max(len(label) for label, _ in rows)
    for label, count in rows:
        bar = '█' * round(40 * count / most) or ('▏' if count else '')
        lines.append(f'  {label:>{width}}  {count:>8,}  {bar}'.rstrip())
    return '\n'.join(lines)


def _answers(survey: Survey) -> Iterator[str]:
    for part, counts, many in _by_part(survey):
        total = counts.total()
        if not total:
            continue
        lines = [f'{part}: {different_answers(len(counts), many)} in {count_of(total, "record")}']
        if 1 < len(counts) <= _CLASSES and total >= 2 * len(counts):
            most, least = counts.most_common()[0], counts.most_common()[-1]
            lines[0] += f'; the most frequent is {most[1] / least[1]:.1f} times as frequent as the rarest'
        shown = counts.most_common(_ANSWERS)
        width = max(_width(answer) for answer, _ in shown)
        for answer, count in shown:
            lines.append(f'  {answer}{" " * (width - _width(answer))}  {count:>8,}  {count / total:>6.1%}')
        if len(counts) > len(shown):
            lines.append(f'  ... and {len(counts) - len(shown):,} more')
        yield '\n'.join(lines)


def different_answers(count: int, many: bool = False) -> str:
    """How many answers there are.

    >>> different_answers(1), different_answers(2), different_answers(20_000, many=True)
    ('1 last answer', '2 different last answers', 'more than 20,000 different last answers')
    """
    return '1 last answer' if count == 1 else f'{"more than " if many else ""}{count:,} different last answers'


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(char) in 'WF' else 1 for char in text)
