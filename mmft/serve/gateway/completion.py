"""``Completion``: a backend's answer on its way to the client, whole or streamed, as OpenAI's API words it."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from starlette.types import Send

from mmft.serve.gateway.api_error import ApiError
from mmft.serve.gateway.intake.request import ChatRequest
from mmft.serve.gateway.response import send_json
from mmft.serve.gateway.upstream import Piece
from mmft.talk.answer_text import AnswerText

__all__ = ['Completion']

_HEADERS = [
    (b'content-type', b'text/event-stream'),
    (b'cache-control', b'no-cache'),
    (b'x-accel-buffering', b'no'),
]


class Completion:
    """One answer.

    Args:
        request: what was asked.
        model: the name to answer under.
        tokens: counts those of a text; None: the pieces of the answer are counted.
    """

    def __init__(self, request: ChatRequest, model: str, tokens: Callable[[str], Awaitable[int]] | None = None) -> None:
        self.request, self.model, self._tokens = request, model, tokens
        self._id, self._words, self._said = f'chatcmpl-{uuid.uuid4().hex}', AnswerText(request.stop), []
        self._finish, self._usage = 'stop', None

    async def send(self, pieces: AsyncIterator[Piece], send: Send) -> None:
        """Send it as the request wants it."""
        await (self._stream if self.request.stream else self._whole)(pieces, send)

    def _feed(self, piece: Piece) -> str:
        """The text that a piece adds to the answer."""
        self._said.append(piece.text)
        self._finish, self._usage = piece.finish or self._finish, piece.usage or self._usage
        text = self._words.feed(piece.text)
        if self._words.hit:
            self._finish = 'stop'
        return text

    async def _stream(self, pieces: AsyncIterator[Piece], send: Send) -> None:
        async def put(event: bytes, more: bool = True) -> None:
            await send({'type': 'http.response.body', 'body': event, 'more_body': more})

        # What goes wrong before the first piece is still an answer with a status of its own.
        first = await anext(pieces, None)
        await send({'type': 'http.response.start', 'status': 200, 'headers': _HEADERS})
        await put(self._chunk({'role': 'assistant', 'content': ''}))
        try:
            async for piece in _with_first(first, pieces):
                if text := self._feed(piece):
                    await put(self._chunk({'content': text}))
                if self._words.hit:
                    break
        except ApiError as error:
            await put(_event(error.body), more=False)
            raise
        if text := self._words.rest():
            await put(self._chunk({'content': text}))
        await put(self._chunk({}, self._finish))
        if self.request.include_usage:
            await put(_event({**self._head('chat.completion.chunk'), 'choices': [], 'usage': await self._cost()}))
        await put(_event('[DONE]'), more=False)

    def _chunk(self, delta: dict[str, str], finish: str | None = None) -> bytes:
        choice = {'index': 0, 'delta': delta, 'finish_reason': finish, 'logprobs': None}
        usage = {'usage': None} if self.request.include_usage else {}
        return _event({**self._head('chat.completion.chunk'), 'choices': [choice], **usage})

    async def _whole(self, pieces: AsyncIterator[Piece], send: Send) -> None:
        texts = []
        async for piece in pieces:
            if piece.whole is not None:
                texts, self._said, self._words = [], [], AnswerText(self.request.stop)
                piece = Piece(piece.whole, piece.finish, piece.usage)
            texts.append(self._feed(piece))
            if self._words.hit:
                break
        message = {'role': 'assistant', 'content': ''.join(texts) + self._words.rest()}
        choice = {'index': 0, 'message': message, 'finish_reason': self._finish, 'logprobs': None}
        answer = {**self._head('chat.completion'), 'choices': [choice], 'usage': await self._cost()}
        await send_json(send, 200, answer)

    def _head(self, kind: str) -> dict[str, Any]:
        return {'id': self._id, 'object': kind, 'created': int(time.time()), 'model': self.model}

    async def _cost(self) -> dict[str, int]:
        """As the backend reports it; counted here where a stop word ended the answer before its last event."""
        if self._usage is not None:
            return self._usage
        pieces = [text for text in self._said if text]
        made = len(pieces) if self._tokens is None else await self._tokens(''.join(pieces))
        asked = self.request.prompt_tokens
        return {'prompt_tokens': asked, 'completion_tokens': made, 'total_tokens': asked + made}


async def _with_first(first: Piece | None, rest: AsyncIterator[Piece]) -> AsyncIterator[Piece]:
    if first is not None:
        yield first
        async for piece in rest:
            yield piece


def _event(content: Mapping[str, Any] | str) -> bytes:
    """Server-sent."""
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    return f'data: {text}\n\n'.encode(errors='backslashreplace')
