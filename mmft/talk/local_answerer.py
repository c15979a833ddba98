"""``LocalAnswerer``: a model in this process, its tokens handed over as they are generated."""

from __future__ import annotations

import contextlib
import gc
import os
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

import mmft.engine.compat
from mmft.checkpoint.build import as_device, as_dtype
from mmft.checkpoint.encoder import encoder_places
from mmft.checkpoint.load import open_pretrained
from mmft.data import image_size, load_image
from mmft.data.text.tokenizers import has_tokenizer
from mmft.errors import CheckpointError, DataError
from mmft.files.directory import ModelDirectory
from mmft.structures import Message
from mmft.talk.answerer import Answerer, Picture
from mmft.talk.sampling import logits_processors

if TYPE_CHECKING:
    from mmft.data import ChatEncoder
    from mmft.models import VLM

__all__ = ['Generated', 'LocalAnswerer', 'check_loadable']

_LOOK_UP = 0.1  # seconds after which a question that waits for its turn checks whether it is still wanted


class Generated(NamedTuple):
    """Some of an answer.

    Attributes:
        text: what is new.
        prompt_tokens: of the conversation.
        new_tokens: of the answer so far.
        finish: at its end ``stop``, or ``length`` where it was cut off; empty before.
    """

    text: str
    prompt_tokens: int
    new_tokens: int
    finish: str = ''


class LocalAnswerer(Answerer):
    """Answers as ``model.chat`` does; one question at a time, others wait.

    Args:
        path, base, dtype: as of ``mmft.load``.
        device: None: the GPU, if there is one.
        name: default: the directory's.

    Attributes:
        model, encoder: as ``mmft.load`` gave them.

    Raises:
        CheckpointError: the directory cannot be read, or holds no tokenizer.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        base: str | os.PathLike | None = None,
        device: str | None = None,
        dtype: str = 'auto',
        name: str | None = None,
    ) -> None:
        self.name = name or Path(path).resolve().name
        self.model: VLM
        self.encoder: ChatEncoder
        self.model, self.encoder = mmft.load(path, dtype=dtype, device=_device(device), base=base)
        if self.encoder is None:
            raise _no_tokenizer(path)
        self._busy = threading.Lock()

    def _pieces(
        self, messages: list[Message], images: list[Picture], settings: Mapping[str, Any], stop: threading.Event
    ) -> Iterator[str]:
        with contextlib.closing(self.generate(messages, images, settings, stop)) as pieces:
            yield from (piece.text for piece in pieces)

    def generate(
        self, messages: list[Message], images: list[Picture], settings: Mapping[str, Any], stop: threading.Event
    ) -> Iterator[Generated]:
        """The answer as it is made, counted; closing the iterator stops the generation.

        Args:
            messages: with a ``<image>`` for each picture, as of ``prompt_messages``.
            images: paths or PIL pictures.
            settings: ``max_new_tokens``, and what ``logits_processors`` takes.
            stop: as of ``stream``.

        Yields:
            Text, and at last, perhaps without any, why it ended.

        Raises:
            DataError: a conversation that does not fit, or a picture that cannot be read.
        """
        used = self.encoder.num_tokens(messages, [image_size(image) for image in images], add_generation_prompt=True)
        left = self._tokens_left(used)
        most = settings['max_new_tokens'] if left is None else min(settings['max_new_tokens'], left)
        events: queue.SimpleQueue[list[int] | str | BaseException] = queue.SimpleQueue()
        watch = _Watch(events.put, stop)

        def work() -> None:
            try:
                events.put(self._in_turn(messages, images, {**settings, 'max_new_tokens': most}, watch))
            except BaseException as error:  # raised again where the answer is read
                events.put(error)

        worker = threading.Thread(target=work, name=f'answer of {self.name}', daemon=True)
        worker.start()
        try:
            yield from self._read(events, used, most)
        finally:
            watch.closed = True
            worker.join()

    def _in_turn(
        self, messages: list[Message], images: list[Picture], settings: Mapping[str, Any], watch: _Watch
    ) -> str:
        """The answer, when those before are over; nothing if it is stopped before."""
        while not self._busy.acquire(timeout=_LOOK_UP):
            if watch.stopped:
                return ''
        try:
            if watch.stopped:
                return ''
            # Decoded now: the photos of all who wait would not fit into memory.
            pictures = [load_image(image, background=self.encoder.background) for image in images]
            sample = self.encoder.prompt(messages[-1]['content'], pictures, messages[:-1])
            return self.model.answer(
                self.encoder,
                sample,
                max_new_tokens=settings['max_new_tokens'],
                stopping_criteria=StoppingCriteriaList([watch]),
                logits_processor=logits_processors(settings, sample),
            )
        finally:
            self._busy.release()

    def _read(
        self, events: queue.SimpleQueue[list[int] | str | BaseException], used: int, most: int
    ) -> Iterator[Generated]:
        shown, ids = '', []
        while True:
            news = events.get()
            if isinstance(news, torch.OutOfMemoryError):
                raise DataError(
                    f'no memory on {self.model.device} is left for this conversation',
                    fix='begin a new one, show fewer or smaller pictures, or load with dtype bfloat16',
                ) from news
            if isinstance(news, BaseException):
                raise news
            last = isinstance(news, str)
            ids = ids if last else news
            text = news if last else self.encoder.decode(news)
            # A character whose bytes have not all come yet reads as U+FFFD.
            whole = text.startswith(shown) and (last or not text.endswith('\ufffd'))
            if last:
                full = len(ids) >= most and ids[-1] not in self.encoder.stop_token_ids
                yield Generated(text[len(shown) :] if whole else '', used, len(ids), 'length' if full else 'stop')
                return
            if whole:
                yield Generated(text[len(shown) :], used, len(ids))
                shown = text

    @property
    def session_length(self) -> int | None:
        """Most tokens of a conversation with its answer; None where the language model does not say."""
        return getattr(getattr(getattr(self.model.llm, 'lm', None), 'config', None), 'max_position_embeddings', None)

    def _tokens_left(self, used: int) -> int | None:
        """Tokens that fit after a conversation of so many."""
        if not (limit := self.session_length):
            return None
        if used >= limit:
            raise DataError(
                f'a conversation of {used} tokens',
                expected=f'fewer than {limit}, the most that {self.name} takes',
                fix='begin a new conversation, or show fewer pictures',
            )
        return limit - used

    def close(self) -> None:
        with self._busy:
            del self.model
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def check_loadable(
    path: str | os.PathLike, base: str | os.PathLike | None = None, device: str | None = None, dtype: str = 'auto'
) -> None:
    """Raise what ``LocalAnswerer`` would of a directory, as far as that shows without reading its weights."""
    as_device(_device(device))
    as_dtype(dtype)
    open_pretrained(path, base=base)
    if not any(map(has_tokenizer, encoder_places(ModelDirectory(path, base)))):
        raise _no_tokenizer(path)


def _no_tokenizer(path: str | os.PathLike) -> CheckpointError:
    return CheckpointError(
        f'{path} holds no tokenizer',
        expected='tokenizer.json or tokenizer.model beside the weights',
        fix='copy the files of the tokenizer of its language model into the directory',
    )


def _device(named: str | None) -> str:
    return named or ('cuda' if torch.cuda.is_available() else 'cpu')


class _Watch(StoppingCriteria):
    """Reports every new token, and stops generation when its reader has gone, or another thread asks for it."""

    def __init__(self, tell: Callable[[list[int]], None], stop: threading.Event) -> None:
        self.tell, self.closed, self._stop = tell, False, stop

    @property
    def stopped(self) -> bool:
        """Whether nobody wants the answer any more."""
        return self.closed or self._stop.is_set()

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        self.tell(input_ids[0].tolist())
        return torch.full((len(input_ids),), self.stopped, device=input_ids.device)
