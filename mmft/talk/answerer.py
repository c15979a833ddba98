"""``Answerer``: one interface to whatever answers questions about pictures, a model in this process or a server.

``open_answerer`` makes one of a model directory, a config with its checkpoint, or the URL of any server that speaks
OpenAI's chat completions.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

from mmft.errors import ConfigError, DataError
from mmft.export.model_path import Target, find_target, is_url
from mmft.structures import IMAGE_PLACEHOLDER, Message
from mmft.talk.answer_text import AnswerText
from mmft.words import count_of, printable

if TYPE_CHECKING:
    from PIL import Image

__all__ = ['Answerer', 'Picture', 'Target', 'check_target', 'is_loopback', 'is_url', 'open_answerer', 'place_pictures']

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
        """The answer to the last message, in pieces as it is made; closing the iterator stops the making.

        Args:
            messages: turns ``{'role', 'content'}``, the last one a question. ``<image>`` stands for a picture; a last
                question without one gets one in front for each picture that the turns before have no place for.
            images: the pictures of all turns, in order.
            max_new_tokens: longest answer.
            temperature: 0 takes the likeliest token each time.
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
        return _trimmed(self._pieces(place_pictures(messages, len(images)), list(images), settings, stop))

    def answer(self, messages: Sequence[Mapping[str, Any]], images: Sequence[Picture] = (), **settings: Any) -> str:
        """The whole answer; arguments as of ``stream``."""
        return ''.join(self.stream(messages, images, **settings))

    @abstractmethod
    def _pieces(
        self, messages: list[Message], images: list[Picture], settings: Mapping[str, Any], stop: threading.Event
    ) -> Iterator[str]:
        """The answer's text as it comes; ``messages`` have a ``<image>`` for each picture, ``settings`` are checked."""

    def close(self) -> None:  # noqa: B027 (most have nothing to let go of)
        """Let go of memory and connections. The answerer is of no use afterwards."""

    def __enter__(self) -> Answerer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_answerer(
    target: Target,
    base: str | os.PathLike | None = None,
    *,
    device: str | None = None,
    dtype: str = 'auto',
    api_key: str | None = None,
    model: str | None = None,
    timeout: float = 600.0,
) -> Answerer:
    """An answerer for a model directory, a config with its checkpoint, or a server.

    Args:
        target: a directory that ``mmft.load`` reads; a checkpoint, the folder of a training, or ``(config,
            checkpoint)``, which are exported first, into a cache; or the ``http(s)://`` address of an
            OpenAI-compatible server, with or without ``/v1``.
        base: of a LoRA directory, as for ``mmft.load``.
        device: of a model in this process; None: the GPU, if there is one.
        dtype: of its weights; ``auto`` keeps what is stored.
        api_key: of a server.
        model: which of a server's models; None: the only one it has.
        timeout: seconds that a server may be silent.

    Raises:
        CheckpointError: a directory that cannot be read.
        ServerError: nothing answers at this address, or not as an OpenAI-compatible server would.
    """
    target = find_target(target)
    if is_url(target):
        from mmft.talk.remote_server import RemoteAnswerer

        return RemoteAnswerer(str(target), api_key=api_key, model=model, timeout=timeout)
    from mmft.talk.local_model import LocalAnswerer

    if isinstance(target, tuple):
        name = '/'.join(Path(target[1]).parts[-2:])
        return LocalAnswerer(_exported(target), device=device, dtype=dtype, name=name)
    return LocalAnswerer(target, base, device=device, dtype=dtype)


def check_target(
    target: Target,
    base: str | os.PathLike | None = None,
    *,
    device: str | None = None,
    dtype: str = 'auto',
    api_key: str | None = None,
    model: str | None = None,
) -> None:
    """Whether ``open_answerer`` opens this, as far as one sees without reading weights: before hours of other work.

    Args:
        target, base, device, dtype, api_key, model: as of ``open_answerer``.

    Raises:
        MMFTError: as ``open_answerer``. Weights of a wrong shape are found only when they are read.
    """
    target = find_target(target)
    if is_url(target):
        from mmft.talk.remote_server import RemoteAnswerer

        RemoteAnswerer(str(target), api_key=api_key, model=model).check()
        return
    from mmft.talk.local_model import check_directory

    exported = isinstance(target, tuple)
    check_directory(_exported(target) if exported else target, None if exported else base, device, dtype)


def _exported(target: tuple[Any, str | os.PathLike]) -> Path:
    from mmft.export.kept_exports import cached_export

    # Standard output is for answers.
    return cached_export(*target, native=True, log=lambda line: print(printable(line), file=sys.stderr))


def is_loopback(url: str) -> bool:
    """Whether an address is this machine's own.

    >>> [is_loopback(url) for url in ('http://127.0.0.1:8000/v1', 'http://[::1]', 'http://127.0.0.1.example.com')]
    [True, True, False]
    """
    try:
        host = urlsplit(url).hostname or ''
        return host == 'localhost' or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, or no address at all
        return False


def place_pictures(messages: Sequence[Mapping[str, Any]], num_images: int) -> list[Message]:
    """The messages with a ``<image>`` for each picture (see ``Answerer.stream``).

    Raises:
        DataError: no question at the end, or more or fewer placeholders than pictures.

    >>> place_pictures([{'role': 'user', 'content': 'What is it?'}], 1)
    [{'role': 'user', 'content': '<image>\\nWhat is it?'}]
    """
    turns = [Message(role=turn['role'], content=turn['content']) for turn in messages]
    if not turns or turns[-1]['role'] != 'user':
        raise DataError('a conversation without a question at its end', expected='a last message of the user')
    last = turns[-1]['content']
    if not last.replace(IMAGE_PLACEHOLDER, '').strip() and num_images == 0:
        raise DataError('an empty question', expected='text, or a picture')
    placed = sum(turn['content'].count(IMAGE_PLACEHOLDER) for turn in turns if turn['role'] == 'user')
    if IMAGE_PLACEHOLDER not in last:
        turns[-1]['content'] = f'{IMAGE_PLACEHOLDER}\n' * (num_images - placed) + last
        placed = max(placed, num_images)
    if placed != num_images:
        raise DataError(
            f'{placed} {IMAGE_PLACEHOLDER} in the questions, {count_of(num_images, "picture")}',
            expected='one placeholder for each picture',
            fix=f'leave {IMAGE_PLACEHOLDER} out: pictures then come first in the last question',
        )
    return turns


def _trimmed(pieces: Iterator[str]) -> Iterator[str]:
    """The pieces without the spaces that the whole text begins and ends with."""
    text = AnswerText()
    with contextlib.closing(pieces):
        for piece in pieces:
            if shown := text.feed(piece):
                yield shown
