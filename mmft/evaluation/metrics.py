"""Metrics of one answer beside the answers that count as right: ``metric(answer, references) -> 0..1``.

A metric is a function, or a class whose objects are called, in the registry ``METRICS``. ``val_cfg.metrics`` and
``mmft compare --metric`` take each of them by its exact name::

    @METRICS.register_module()
    def first_word(answer, references):
        return float(answer.split()[:1] in [reference.split()[:1] for reference in references])

Other keys of a dict are arguments of a class: ``dict(type='WithinPercent', percent=5)``. A metric with the attribute
``needs_answers = True`` cannot be computed with a single reference: each record must have a list of ``answers``.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmft.errors import ConfigError
from mmft.registry import METRICS
from mmft.words import clipped

__all__ = ['Metric', 'anls', 'build_metric', 'build_metrics', 'contains', 'exact_match', 'normalize_answer']


@dataclass(frozen=True)
class Metric:
    """A metric of the registry, ready to be called.

    Attributes:
        name: what it is registered as.
        score: of an answer and its references.
        needs_answers: whether each record must have a list of ``answers``.
    """

    name: str
    score: Callable[[str, Sequence[str]], float]
    needs_answers: bool = False

    def __call__(self, answer: str, references: Sequence[str]) -> float:
        """The score of an answer, 0 to 1.

        Raises:
            ConfigError: the metric gave something else.
        """
        value = self.score(answer, references)
        try:
            score = float(value)
        except (TypeError, ValueError):
            score = math.nan
        if not 0 <= score <= 1:
            raise ConfigError(
                f'the metric {self.name!r} gave {clipped(repr(value))} for the answer {clipped(repr(answer))}',
                expected='a number from 0 to 1',
                fix='correct the metric',
            )
        return score


def build_metric(config: str | Mapping[str, Any]) -> Metric:
    """A metric from its name, or from a dict with its name as ``type`` and the arguments of its class.

    Raises:
        ConfigError: no metric has this name (says the nearest), or its class takes other arguments.

    >>> build_metric('exact_match')('Egg tarts', ['egg tarts'])
    1.0
    """
    if not isinstance(config, (str, Mapping)):
        raise ConfigError(f'{clipped(repr(config))} where a metric should be', expected=f'one of {METRICS.names()}')
    config = {'type': config} if isinstance(config, str) else dict(config)
    name = config.get('type')
    part = METRICS.get(name)
    if part is None:
        raise METRICS.unknown(name)
    if isinstance(part, type):
        part = METRICS.build(config)
    elif len(config) > 1:
        given = sorted(config.keys() - {'type'})
        raise ConfigError(f'metric {name}: arguments {given}', expected='none, since it is a function')
    if not callable(part):
        raise ConfigError(f'metric {name}: a {name} cannot be called', fix='give it __call__(self, answer, references)')
    return Metric(name, part, bool(getattr(part, 'needs_answers', False)))


def build_metrics(configs: Sequence[str | Mapping[str, Any]], taken: Collection[str] = ()) -> dict[str, Metric]:
    """Metrics by name, in the order given.

    Args:
        configs: as ``build_metric`` takes them.
        taken: names that mean something else where the scores are shown.

    Raises:
        ConfigError: lists all that is wrong with them.
    """
    if not isinstance(configs, (list, tuple)):
        raise ConfigError(f'metrics = {clipped(repr(configs))}', expected="a list of metrics, such as ['exact_match']")
    found: dict[str, Metric] = {}
    problems: list[ConfigError] = []
    for config in configs:
        try:
            metric = build_metric(config)
        except ConfigError as error:
            problems.append(error)
            continue
        if metric.name in found or metric.name in taken:
            why = 'a second time' if metric.name in found else 'whose name means something else in the log'
            problems.append(ConfigError(f'the metric {metric.name!r}, {why}', expected='names that are all different'))
        found[metric.name] = metric
    if problems:
        raise ConfigError.gather(problems)
    return found


def normalize_answer(text: str) -> str:
    """Case, width, spaces and a final full stop do not count.

    >>> normalize_answer(' Rice  Noodle Rolls. ')
    'rice noodle rolls'
    """
    return ' '.join(unicodedata.normalize('NFKC', text).casefold().split()).rstrip('.。')


@METRICS.register_module()
def exact_match(answer: str, references: Sequence[str]) -> float:
    """1 for one of the references; case, width, spaces and a final full stop do not count.

    >>> exact_match('Egg tarts.', ['egg tarts']), exact_match('an egg tart', ['egg tarts'])
    (1.0, 0.0)
    """
    return float(normalize_answer(answer) in map(normalize_answer, references))


@METRICS.register_module()
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


@METRICS.register_module()
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
