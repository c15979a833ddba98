"""Metrics of one answer beside the answers that count as right: ``metric(answer, references) -> 0..1``."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Callable, Sequence

from mmft.errors import ConfigError
from mmft.evaluation.vqa import vqa_accuracy

__all__ = ['METRICS', 'Metric', 'anls', 'contains', 'exact_match', 'find_metric', 'normalize_answer']

Metric = Callable[[str, Sequence[str]], float]


def normalize_answer(text: str) -> str:
    """Case, width, spaces and a final full stop do not count.

    >>> normalize_answer(' Rice  Noodle Rolls. ')
    'rice noodle rolls'
    """
    return ' '.join(unicodedata.normalize('NFKC', text).casefold().split()).rstrip('.。')


def exact_match(answer: str, references: Sequence[str]) -> float:
    """1 for one of the references; case, width, spaces and a final full stop do not count, as in validation.

    >>> exact_match('Egg tarts.', ['egg tarts']), exact_match('an egg tart', ['egg tarts'])
    (1.0, 0.0)
    """
    return float(normalize_answer(answer) in map(normalize_answer, references))


def contains(answer: str, references: Sequence[str]) -> float:
    """1 for an answer that holds a reference as words of its own: for models that answer in sentences.

    >>> contains('These are egg tarts, I think', ['egg tarts']), contains('a carpet', ['car', 'pet'])
    (1.0, 0.0)
    >>> contains('这是肠粉。', ['肠粉'])
    1.0
    """
    text = normalize_answer(answer)
    return float(any(_words(reference).search(text) for reference in map(normalize_answer, references) if reference))


def _words(reference: str) -> re.Pattern[str]:
    # Latin words end where letters do. Chinese ones have no such border: re.ASCII sees none there.
    start = r'(?<!\w)' if re.match(r'\w', reference, re.ASCII) else ''
    end = r'(?!\w)' if re.search(r'\w\Z', reference, re.ASCII) else ''
    return re.compile(start + re.escape(reference) + end, re.ASCII)


def anls(answer: str, references: Sequence[str]) -> float:
    """Average normalised Levenshtein similarity (DocVQA): 1 - distance / longer length, and 0 from a distance of half.

    Source: Biten et al., ICCV 2019, threshold 0.5; case and spaces as the Robust Reading Competition has them.

    >>> anls('12 May 1998', ['12 may 1989'])
    0.8181818181818181
    """
    return max((_similarity(_plain(answer), _plain(reference)) for reference in references), default=0.0)


def _plain(text: str) -> str:
    return ' '.join(text.lower().split())


def _similarity(a: str, b: str) -> float:
    longer = max(len(a), len(b))
    similarity = 1 - _distance(a, b) / longer if longer else 1.0
    return similarity if similarity > 0.5 else 0.0


def _distance(a: str, b: str) -> int:
    """Levenshtein's: characters to insert, delete or replace."""
    row = list(range(len(b) + 1))
    for i, char in enumerate(a, 1):
        corner, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            corner, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, corner + (char != other))
    return row[-1]


METRICS: dict[str, Metric] = {
    'exact_match': exact_match,
    'contains': contains,
    'vqa': vqa_accuracy,
    'anls': anls,
}
"""By the names that ``--metric`` takes."""


def find_metric(name: str) -> Metric:
    """The metric of this name.

    Raises:
        ConfigError: there is none; names the nearest.
    """
    if name not in METRICS:
        near = difflib.get_close_matches(name, METRICS, n=1)
        raise ConfigError(
            f'no metric is named {name!r}',
            expected=f'one of {", ".join(METRICS)}',
            fix=f'did you mean {near[0]}?' if near else '',
        )
    return METRICS[name]
