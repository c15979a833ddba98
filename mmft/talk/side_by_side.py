"""One conversation with several models at once: a question goes to all, their answers come in side by side."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmft.data.pictures.loading import load_image
from mmft.data.prompt import add_placeholders, prompt_messages
from mmft.errors import DataError, MMFTError
from mmft.structures import Message
from mmft.talk.answerer import Answerer

__all__ = ['Conversation', 'Reply', 'Turn', 'check_pictures']

logger = logging.getLogger('mmft')

_NEWS_EVERY = 0.1  # seconds; a page that is drawn more often than this reads no better
_PATIENCE = 0.5  # seconds without news after which the caller is asked whether it is still there


@dataclass
class Reply:
    """What one model says to one question.

    Attributes:
        text: so far.
        error: why it failed; empty if it did not.
        state: ``waiting``, ``writing``, ``done``, ``stopped`` or ``failed``.
        seconds: from the question to the last piece.
    """

    text: str = ''
    error: str = ''
    state: str = 'waiting'
    seconds: float = 0.0

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self.state in ('done', 'stopped', 'failed')


@dataclass
class Turn:
    """A question with its replies, one for each model.

    Attributes:
        question: as it was typed; ``<image>`` in it says where a picture belongs.
        images: its own pictures.
        replies: in the order of the models.
        settings: of the answers, as of ``Answerer.stream``.
        expected: the answer that the dataset gives, if the question is from one.
        alone: asked as if nothing had been said before, as a dataset's question is.
    """

    question: str
    images: list[Path]
    replies: list[Reply]
    settings: dict[str, Any] = field(default_factory=dict)
    expected: str = ''
    alone: bool = False


class Conversation:
    """What was asked and answered. A model's replies are its own history; it never sees another's.

    A question that a model failed on, or answered with nothing, is left out of its history; the pictures go with its
    next question, so that "and what colour is it?" still has something to look at.

    Args:
        answerers: the models.
        system: a system message for all of them.

    Attributes:
        turns: so far; the last one may still be being answered.
    """

    def __init__(self, answerers: Sequence[Answerer], system: str | None = None) -> None:
        self.answerers, self.system, self.turns = list(answerers), system, list[Turn]()
        self._lock, self._news, self._stop = threading.Lock(), threading.Event(), threading.Event()

    def ask(
        self,
        question: str,
        images: Sequence[Path] = (),
        settings: Mapping[str, Any] | None = None,
        expected: str = '',
        alone: bool = False,
    ) -> Iterator[Turn]:
        """Ask every model at the same time, each in a thread of its own.

        Args:
            question, images, settings, expected, alone: as of ``Turn``.

        Yields:
            The turn, again and again while it grows, and at last when all replies are over. Closing the iterator stops
            those that are not.

        Raises:
            DataError: an empty question, placeholders that do not fit the pictures, or another question that is still
                being answered. Nothing is asked then.
        """
        question, images = question.strip(), [Path(image) for image in images]
        prompt_messages([Message(role='user', content=question)], len(images))
        with self._lock:
            if self.busy:
                raise DataError('the last question is still being answered', fix='wait for it, or stop it')
            replies = [Reply() for _ in self.answerers]
            turn = Turn(question, images, replies, dict(settings or {}), expected, alone)
            asked = [self.history(model, turn) for model in range(len(self.answerers))]
            self.turns.append(turn)
            self._stop = threading.Event()  # of this question: the last one's answers may not have ended yet
        for answerer, reply, (messages, pictures) in zip(self.answerers, turn.replies, asked, strict=True):
            arguments = (answerer, reply, messages, pictures, {**turn.settings, 'stop': self._stop})
            threading.Thread(target=self._write, args=arguments, name=f'ask {answerer.name}', daemon=True).start()
        try:
            while not all(reply.over for reply in turn.replies):
                yield turn
                time.sleep(_NEWS_EVERY)
                self._news.wait(_PATIENCE)
                self._news.clear()
        finally:
            self.stop()
        yield turn

    @property
    def busy(self) -> bool:
        """Whether a question is being answered."""
        return bool(self.turns) and not all(reply.over for reply in self.turns[-1].replies)

    def stop(self) -> None:
        """Stop the replies that are still coming; their text so far stays."""
        with self._lock:
            for reply in self.turns[-1].replies if self.turns else ():
                if not reply.over:
                    reply.state = 'stopped'
            self._stop.set()
        self._news.set()

    def take_back(self) -> Turn:
        """The last turn, which is forgotten.

        Raises:
            DataError: there is none, or it is still being answered.
        """
        with self._lock:
            if not self.turns or self.busy:
                raise DataError('there is no answered question to ask again', fix='ask one, and wait for the answers')
            return self.turns.pop()

    def history(self, model: int, last: Turn) -> tuple[list[Message], list[Path]]:
        """The messages and pictures that a model gets: what it answered before, and the last question."""
        messages = [] if self.system is None else [Message(role='system', content=self.system)]
        shown, carried = list[Path](), list[Path]()
        turns = [*self.turns, last]
        begin = max((number for number, turn in enumerate(turns) if turn.alone), default=0)
        for turn in turns[begin:]:
            answer = '' if turn is last else turn.replies[model].text
            if turn is not last and (not answer or turn.replies[model].error):
                carried += turn.images
                continue
            content = add_placeholders(turn.question, len(carried) + len(turn.images))
            messages.append(Message(role='user', content=content))
            shown, carried = [*shown, *carried, *turn.images], []
            if turn is not last:
                messages.append(Message(role='assistant', content=answer))
        return messages, shown

    def _write(
        self,
        answerer: Answerer,
        reply: Reply,
        messages: Sequence[Message],
        images: Sequence[Path],
        settings: Mapping[str, Any],
    ) -> None:
        """The work of a thread: fill ``reply`` until it is over."""
        begun = time.monotonic()
        try:
            with contextlib.closing(answerer.stream(messages, images, **settings)) as pieces:
                for piece in pieces:
                    if not self._change(reply, 'writing', begun, text=reply.text + piece):
                        return
            self._change(reply, 'done', begun)
        except MMFTError as error:
            self._change(reply, 'failed', begun, error=str(error))
        except Exception as error:  # the other models go on, and so does the page
            logger.exception('%s failed', answerer.name)
            self._change(reply, 'failed', begun, error=f'{type(error).__name__}: {error}')

    def _change(self, reply: Reply, state: str, begun: float, **new: str) -> bool:
        with self._lock:
            if reply.over:
                return False
            reply.state, reply.seconds = state, time.monotonic() - begun
            for name, value in new.items():
                setattr(reply, name, value)
        self._news.set()
        return True


def check_pictures(paths: Sequence[str | Path]) -> list[Path]:
    """The paths, all of which decode.

    Raises:
        DataError: one that is no picture, by its bare name: the path of an upload stays private.
    """
    for path in map(Path, paths):
        try:
            load_image(path)
        except DataError as error:
            raise DataError(f'{path.name}: {error.bare}', expected=error.expected, fix='choose another file') from None
    return [Path(path) for path in paths]
