"""``Answerer``: one interface to whatever answers questions about pictures, a model in this process or a server.

``open_answerer`` makes one of a model directory, a checkpoint or the URL of a server.
"""

from __future__ import annotations

import contextlib
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from mmft.data.prompt import prompt_messages
from mmft.errors import ConfigError
from mmft.structures import Message
from mmft.talk.answer_text import AnswerText

if TYPE_CHECKING:
    from PIL import Image

__all__ = ['Answerer', 'Picture']

Picture: TypeAlias = 'str | os.PathLike | Image.Image'
"""A path, or a PIL picture."""


class Answerer(ABC):
    """Answers conversations about pictures. Safe to call from several threads.

    Attributes:
        name: what people call it: the directory, or the model and its server.
        parallel: whether several questions at a time are answered sooner than one after the other.
    """

    name: str
    parallel: bool = False

    def stream(
        self,
        messages: Sequence[Mapping[str, Any]],
        images: Sequence[Picture] = (),
        *,
        max_new_tokens: int = 512,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: threading.Event | None = None,
    ) -> Iterator[str]:
        """The answer to the last message, in pieces as it is made; closing the iterator stops the generation.

        Args:
            messages: turns ``{'role', 'content'}``, the last one a question. ``<image>`` stands for a picture; a last
                question without one gets one in front for each picture that the turns before have no place for.
            images: the pictures of all turns, in order.
            max_new_tokens: longest answer.
            temperature: 0 always takes the likeliest token.
            top_p: sampling is from the likeliest tokens that together have this probability.
            seed: of the sampling; None: another answer each time. (A server may ignore it.)
            stop: set by another thread, it ends an answer of a model in this process, one that has not begun too:
                the iterator itself cannot be closed while it is waited for.

        Yields:
            Text that is not empty; all together is the answer, without outer spaces.

        Raises:
            ConfigError: a sampling setting out of range.
            DataError: a conversation that does not fit, or a picture that cannot be read.
            ServerError: from a server.
        """
        if max_new_tokens < 1 or not temperature >= 0 or not 0 < top_p <= 1:
            raise ConfigError(
                f'max_new_tokens={max_new_tokens}, temperature={temperature}, top_p={top_p}',
                expected='at least 1 token, a temperature from 0 up, and 0 < top_p <= 1',
            )
        settings = {'max_new_tokens': max_new_tokens, 'temperature': temperature, 'top_p': top_p, 'seed': seed}
        stop = stop or threading.Event()
        return _trimmed(self._pieces(prompt_messages(messages, len(images)), list(images), settings, stop))

    def answer(self, messages: Sequence[Mapping[str, Any]], images: Sequence[Picture] = (), **settings: Any) -> str:
        """The whole answer; arguments as of ``stream``."""
        return ''.join(self.stream(messages, images, **settings))

    @abstractmethod
    def _pieces(
        self, messages: list[Message], images: list[Picture], settings: Mapping[str, Any], stop: threading.Event
    ) -> Iterator[str]:
        """The answer's text as it comes; ``messages`` have a ``<image>`` for each picture, ``settings`` are checked."""

    def close(self) -> None:  # noqa: B027 (most have nothing to release)
        """Release memory and connections. The answerer cannot be used afterwards."""

    def __enter__(self) -> Answerer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _trimmed(pieces: Iterator[str]) -> Iterator[str]:
    """The pieces without the spaces that the whole text begins and ends with."""
    text = AnswerText()
    with contextlib.closing(pieces):
        for piece in pieces:
            if shown := text.feed(piece):
                yield shown
