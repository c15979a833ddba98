"""``Upstream``: a backend behind the gateway, asked for an answer.

A backend is always asked for a stream, also where the client wants the answer whole: closing a stream is the only way
to make ``transformers serve`` and LMDeploy's proxy stop generating for a client that has gone.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from mmft.serve.gateway.api_error import ApiError
from mmft.serve.gateway.dialects import Dialect
from mmft.serve.gateway.intake.request import ChatRequest

__all__ = ['Piece', 'Upstream']

SILENCE = 1800.0
"""Seconds of silence after which a backend counts as hung. Questions may wait inside a slow one: it is long."""

_BROKEN_OFF = ('abort', 'error', 'parse_error')
"""Finish reasons of LMDeploy beyond OpenAI's: its engine was ended or restarted in the middle of an answer."""


@dataclass(frozen=True)
class Piece:
    """Some of an answer: text, and at its end why it ended and what it cost.

    Attributes:
        whole: the answer in full, where what came before may not be its beginning.
    """

    text: str = ''
    finish: str | None = None
    usage: dict[str, int] | None = None
    whole: str | None = None


@dataclass
class Upstream:
    """One backend.

    Attributes:
        slots: how many questions it is asked at a time.
        busy: slots that are taken.
        changed: called when it comes back.
    """

    url: str
    dialect: Dialect
    slots: int
    busy: int = 0
    changed: Callable[[], None] = field(default=lambda: None, repr=False)
    client: httpx.AsyncClient | None = field(default=None, repr=False)
    _alive: bool = True

    @property
    def alive(self) -> bool:
        """False while its process is restarting."""
        return self._alive

    @alive.setter
    def alive(self, alive: bool) -> None:
        self._alive = alive
        self.changed()

    def has_room(self, alone: bool) -> bool:
        """For one more question; ``alone``: for one beside which there is no other."""
        return self._alive and (self.busy == 0 if alone else self.busy < self.slots)

    async def open(self) -> None:
        """Make its client."""
        # No connection is used twice: a server may close an idle one in the moment in which it is used again.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        timeout = httpx.Timeout(None, connect=10.0, read=SILENCE)
        self.client = httpx.AsyncClient(base_url=self.url, limits=limits, timeout=timeout, trust_env=False)

    async def close(self) -> None:
        """Close its client."""
        if self.client is not None:
            await self.client.aclose()

    async def ask(self, request: ChatRequest) -> AsyncIterator[Piece]:
        """The answer, piece by piece. Closing the iterator makes the backend stop.

        Raises:
            ApiError: the backend refuses, fails or is gone.
        """
        body, sent = self.dialect.body(request), ''
        try:
            try:
                async for piece in self._stream(body):
                    sent += piece.text
                    yield piece
            except _CannotStreamError:
                yield await self._whole(body, sent)
        except httpx.TransportError as error:
            message = f'The backend broke off ({type(error).__name__}); it is restarted if it has ended.'
            raise ApiError(503, message, 'backend_gone', retry_after=5) from error

    async def _stream(self, body: Mapping[str, Any]) -> AsyncIterator[Piece]:
        async with self.client.stream('POST', '/v1/chat/completions', **await _encoded(body)) as answer:
            if answer.status_code != 200:
                raise _refusal(answer.status_code, await answer.aread())
            async for event in _events(answer):
                if event == b'[DONE]':
                    return
                yield _piece(event)

    async def _whole(self, body: Mapping[str, Any], sent: str) -> Piece:
        """The same answer once more, at once."""
        answer = await self.client.post('/v1/chat/completions', **await _encoded({**body, 'stream': False}))
        if answer.status_code != 200:
            raise _refusal(answer.status_code, answer.content)
        content = answer.json()
        choice = content['choices'][0]
        text = choice['message'].get('content') or ''
        same = next((i for i, (a, b) in enumerate(zip(text, sent, strict=False)) if a != b), min(len(text), len(sent)))
        return Piece(text[same:], _finish(choice), _usage(content), text)


async def _encoded(body: Mapping[str, Any]) -> dict[str, Any]:
    """Content and headers of a request; pictures make it large, so not on the event loop."""
    content = await asyncio.to_thread(lambda: json.dumps(body).encode())
    return {'content': content, 'headers': {'content-type': 'application/json'}}


class _CannotStreamError(Exception):
    """The decoder of transformers' streams fails on bytes that make no character.

    ``tokenizers`` 0.23 raises 'Invalid prefix encountered while decoding stream' there; decoding the whole answer at
    once works.
    """


async def _events(answer: httpx.Response) -> AsyncIterator[bytes]:
    """The data of server-sent events; also a line of bare JSON, which LMDeploy's proxy sends for an error."""
    rest = b''
    async for content in answer.aiter_bytes():
        # Not aiter_lines: that also splits at U+2028 and the like, which stand unescaped in answers.
        *lines, rest = (rest + content).split(b'\n')
        for line in lines:
            if data := _data(line):
                yield data
    if data := _data(rest):
        yield data


def _data(line: bytes) -> bytes:
    line = line.strip()
    return line.removeprefix(b'data:').strip() if line.startswith((b'data:', b'{')) else b''


def _piece(event: bytes) -> Piece:
    try:
        content = json.loads(event)
    except ValueError:
        content = {'error': event}
    if isinstance(content, dict) and b'while decoding stream' in event and 'choices' not in content:
        raise _CannotStreamError
    if content == {'error': event}:
        # transformers serve puts the text of an error into its JSON as it is.
        raise ApiError(500, f'The backend failed: {event.decode(errors="replace")[:500]}', 'backend_failed')
    if not isinstance(content, dict) or not ('choices' in content or 'usage' in content):
        raise _refusal(502, event)
    usage = _usage(content)
    for choice in content.get('choices') or ():
        delta = choice.get('delta') or {}
        return Piece(delta.get('content') or '', _finish(choice), usage)
    return Piece(usage=usage)


def _finish(choice: Mapping[str, Any]) -> str | None:
    finish = choice.get('finish_reason')
    if finish in _BROKEN_OFF:
        message = f'The backend broke the answer off ({finish}); ask again.'
        raise ApiError(503, message, 'backend_failed', retry_after=5)
    return finish


def _usage(content: Mapping[str, Any]) -> dict[str, int] | None:
    usage = content.get('usage') or {}
    names = ('prompt_tokens', 'completion_tokens', 'total_tokens')
    return {name: usage[name] for name in names} if usage.keys() >= set(names) else None


def _refusal(status: int, content: bytes) -> ApiError:
    """What a backend reports instead of an answer, in any of its forms."""
    message, code = content.decode(errors='replace')[:500], None
    try:
        body = json.loads(content)
    except ValueError:
        body = {}
    if isinstance(body, dict):
        error = body.get('error') if isinstance(body.get('error'), dict) else body
        message = next((error[key] for key in ('message', 'detail', 'text', 'error') if error.get(key)), message)
        code = error.get('code')
    if isinstance(code, int) and 400 <= code < 600:
        status = code  # LMDeploy's proxy passes the errors of its servers on with the status 200
    if status >= 500:
        return ApiError(500, f'The backend failed on this request: {message}', 'backend_failed')
    return ApiError(status, f'The backend refuses: {message}', 'backend_refused')
