"""Many questions to one model: the last question of every record of a dataset."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from tqdm import tqdm

from mmft.errors import MMFTError
from mmft.registry import DATASETS
from mmft.structures import Message
from mmft.talk.answerer import Answerer
from mmft.talk.screen import one_line

__all__ = ['NOT_ASKED', 'Answers', 'Question', 'ask_all', 'open_records', 'questions_in', 'read_questions']

NOT_ASKED = 'not asked'
"""The error of a question that was not reached."""

_FAILURES_IN_A_ROW = 10
"""After so many in a row the model counts as unreachable."""

_PATIENCE = 5.0
"""Seconds that answers under way have to finish when the run ends early; a server that hangs never will."""


@dataclass
class Question:
    """A question of a dataset.

    Attributes:
        key: its number in the dataset, from 0; ``id`` is the one in the record, where it has one.
        messages: the turns before, with the dataset's answers, and the last question.
        images: paths of all pictures, in order.
        references: what counts as right: the record's ``answers``, else its last answer.
    """

    key: int
    messages: list[Message]
    images: list[str]
    references: list[str]
    id: str = ''


@dataclass
class Answers:
    """What a model answered to each question: its text, or None and why there is none.

    Attributes:
        ended: what ended the run before the last question.
    """

    texts: list[str | None]
    errors: list[str]
    ended: BaseException | None = None


def open_records(dataset: Mapping[str, Any], limit: int | None = None, seed: int = 0) -> Any:
    """The ``ChatDataset`` whose records are asked.

    Args:
        dataset: arguments of ``ChatDataset``, such as ``ann_file`` and ``image_root``.
        limit: at most this many, a seeded choice.
        seed: of the choice.

    Raises:
        DataError: as ``ChatDataset``.
    """
    limits = {} if limit is None else {'max_samples': limit, 'seed': seed}
    return DATASETS.build({'type': 'ChatDataset', **dataset, **limits})


def questions_in(records: Any) -> list[Question]:
    """The last question of every record of a ``ChatDataset``."""
    found = []
    for number in range(len(records)):
        record = records.record(number)
        own = record.meta.get('id', '')
        found.append(Question(number, *record.question, record.references, str(own)))
    return found


def read_questions(dataset: Mapping[str, Any], limit: int | None = None, seed: int = 0) -> list[Question]:
    """The last question of every record of a dataset; arguments and errors as of ``open_records``."""
    return questions_in(open_records(dataset, limit, seed))


def ask_all(
    answerer: Answerer, questions: Sequence[Question], settings: Mapping[str, Any], workers: int = 1, bar: bool = True
) -> Answers:
    """A model's answers to every question.

    Args:
        settings: as of ``Answerer.stream``.
        workers: questions at a time, where the answerer gains by it.
        bar: show a progress bar, on a terminal.

    Raises:
        MMFTError: the model answers nothing.
        KeyboardInterrupt: before it has answered anything.
    """
    answers = Answers([None] * len(questions), [NOT_ASKED] * len(questions))
    stop, places = threading.Event(), max(1, workers) if answerer.parallel else 1

    def ask(number: int) -> MMFTError | None:
        try:
            text = _answer(answerer, questions[number], settings, stop)
        except MMFTError as error:
            answers.errors[number] = one_line(error)
            return error
        if text is not None:
            answers.texts[number], answers.errors[number] = text, ''
        return None

    left, in_a_row = iter(range(len(questions))), 0
    with (
        tqdm(total=len(questions), desc=answerer.name, unit=' questions', disable=None if bar else True) as progress,
        _Workers(ask, places) as pool,
    ):
        pool.give(islice(left, places))
        try:
            for _ in questions:
                error = pool.result()
                in_a_row = 0 if error is None else in_a_row + 1
                if error is not None and in_a_row == min(_FAILURES_IN_A_ROW, len(questions)):
                    raise error
                progress.update()
                pool.give(islice(left, 1))
        except (MMFTError, KeyboardInterrupt) as error:
            if all(text is None for text in answers.texts):
                raise
            answers.ended = error
        finally:
            stop.set()
    # Copies: an answer that is still under way changes nothing any more.
    return Answers(list(answers.texts), list(answers.errors), answers.ended)


class _Workers:
    """Threads that need not have ended for the process to end, as those of a ``ThreadPoolExecutor`` must."""

    def __init__(self, work: Callable[[int], MMFTError | None], count: int) -> None:
        self._work = work
        self._given: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._run, name='ask', daemon=True) for _ in range(count)]

    def __enter__(self) -> _Workers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for what is under way, but not forever."""
        self.give([None] * len(self._threads))
        end = time.monotonic() + _PATIENCE
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def give(self, numbers: Iterable[int | None]) -> None:
        """Work for whoever is free; None ends a thread."""
        for number in numbers:
            self._given.put(number)

    def result(self) -> MMFTError | None:
        """The result of the next piece of work that ends. An unforeseen error is raised."""
        error = self._done.get()
        if error is None or isinstance(error, MMFTError):
            return error
        raise error

    def _run(self) -> None:
        while (number := self._given.get()) is not None:
            try:
                self._done.put(self._work(number))
            except BaseException as error:  # raised again where the results are read
                self._done.put(error)


def _answer(answerer: Answerer, question: Question, settings: Mapping[str, Any], stop: threading.Event) -> str | None:
    """The answer, or None if ``stop`` came before its end."""
    answer = ''
    with contextlib.closing(answerer.stream(question.messages, question.images, **settings, stop=stop)) as pieces:
        for piece in pieces:
            answer += piece
            if stop.is_set():
                return None
    return answer
