"""Two models, the same questions: what each answers, how good it is, and whether the difference is more than chance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from mmft.compare.questions import NOT_ASKED, Question, ask_all
from mmft.errors import DataError
from mmft.evaluation.bootstrap import Interval, interval
from mmft.evaluation.metrics import Metric, build_metric
from mmft.talk.answerer import Answerer

__all__ = ['CHANGES', 'Comparison', 'Row', 'compare']

CHANGES = ('better', 'worse', 'other', 'same')
"""Their order on the page."""


@dataclass
class Row:
    """A question with both answers.

    Attributes:
        answers: None where a model failed; then ``errors`` says why.
        scores: 0 to 1; 0 where a model failed.
        change: ``better``, ``worse``, ``other`` (other words, as good or bad) or ``same``.
    """

    question: Question
    answers: tuple[str | None, str | None]
    errors: tuple[str, str]
    scores: tuple[float, float]
    change: str = field(init=False)

    def __post_init__(self) -> None:
        before, after = self.scores
        self.change = 'better' if after > before else 'worse' if after < before else 'other'
        if self.change == 'other' and self.answers[0] == self.answers[1]:
            self.change = 'same'


@dataclass
class Comparison:
    """Two models on the same questions.

    Attributes:
        names: of the models, before and after.
        rows: the answers that changed first; inside a kind of change in the order of the dataset.
        scores: mean score of each with its interval.
        difference: of the second to the first, by pairs.
        asked: how many questions there were to ask.
        left_out: records of the dataset that cannot be used, where its config says to go on without them.
        ended: what ended the run before that, if anything did; ``rows`` are then those that both have answered.
    """

    names: tuple[str, str]
    dataset: str
    metric: str
    settings: dict[str, Any]
    rows: list[Row]
    scores: tuple[Interval, Interval]
    difference: Interval
    asked: int
    ended: BaseException | None = None
    left_out: int = 0

    @property
    def failed(self) -> int:
        """Missing answers."""
        return sum(answer is None for row in self.rows for answer in row.answers)

    def counts(self) -> dict[str, int]:
        """How many answers changed in which way."""
        return {change: sum(row.change == change for row in self.rows) for change in CHANGES}

    def to_json(self) -> dict[str, Any]:
        """All of it, for programs."""
        return {
            'a': self.names[0],
            'b': self.names[1],
            'dataset': self.dataset,
            'metric': self.metric,
            'settings': self.settings,
            'questions': len(self.rows),
            'asked': self.asked,
            'failed': self.failed,
            'left_out': self.left_out,
            'score': {
                'a': self.scores[0]._asdict(),
                'b': self.scores[1]._asdict(),
                'b_minus_a': self.difference._asdict(),
                'interval': 'paired bootstrap over pictures, 95%',
            },
            'changes': self.counts(),
            'rows': [_row(row) for row in self.rows],
        }


def _row(row: Row) -> dict[str, Any]:
    made = {**asdict(row.question), 'change': row.change}
    for side, answer, score, error in zip('ab', row.answers, row.scores, row.errors, strict=True):
        made |= {side: answer, f'score_{side}': score, **({f'error_{side}': error} if error else {})}
    return made


def compare(
    openers: tuple[Callable[[], Answerer], Callable[[], Answerer]],
    questions: Sequence[Question],
    metric: str = 'exact_match',
    settings: Mapping[str, Any] | None = None,
    *,
    check: Callable[[], object] | None = None,
    names: Sequence[str] | None = None,
    dataset: str = '',
    workers: int = 4,
    seed: int = 0,
    bar: bool = True,
    left_out: int = 0,
) -> Comparison:
    """Ask two models, one after the other, so that they need not fit into memory together.

    Args:
        openers: make the models.
        metric: the name of a registered one (``METRICS``).
        settings: of the answers, as of ``Answerer.stream``.
        check: called before the first model is asked, to see whether the second can be made: an error shows before the
            work, not after it; default: it is made, and made again when its turn comes.
        names: of the models; default: the answerers'.
        dataset: what it is called.
        workers: questions at a time for a server.
        seed: of the intervals.
        bar: show progress bars, on a terminal.
        left_out: as of ``Comparison``.

    Raises:
        MMFTError: a model that cannot be opened or does not answer.
    """
    score, settings = build_metric(metric), dict(settings or {})
    if not questions:
        raise DataError('a dataset without questions')
    if check is not None:
        check()
    else:
        openers[1]().close()
    found, answered = [], []
    for number, opener in enumerate(openers):
        with opener() as answerer:
            found.append(answerer.name)
            answered.append(ask_all(answerer, questions, settings, workers, bar))
        if number == 0 and answered[0].ended is not None:
            raise answered[0].ended
    a, b = answered
    rows = [
        _judged(question, (a.texts[n], b.texts[n]), (a.errors[n], b.errors[n]), score)
        for n, question in enumerate(questions)
        if NOT_ASKED not in (a.errors[n], b.errors[n])
    ]
    rows.sort(key=lambda row: CHANGES.index(row.change))
    pictures = [tuple(row.question.images) or row.question.key for row in rows]
    before, after = ([row.scores[side] for row in rows] for side in (0, 1))
    return Comparison(
        names=tuple(names or _apart(*found)),
        dataset=dataset,
        metric=metric,
        settings=settings,
        rows=rows,
        scores=(interval(before, pictures, seed=seed), interval(after, pictures, seed=seed)),
        difference=interval([y - x for x, y in zip(before, after, strict=True)], pictures, seed=seed),
        asked=len(questions),
        ended=b.ended,
        left_out=left_out,
    )


def _judged(question: Question, answers: tuple[str | None, str | None], errors: tuple[str, str], score: Metric) -> Row:
    before, after = (0.0 if answer is None else score(answer, question.references) for answer in answers)
    return Row(question, answers, errors, (before, after))


def _apart(a: str, b: str) -> tuple[str, str]:
    return (a, b) if a != b else (f'{a} (A)', f'{b} (B)')
