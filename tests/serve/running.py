"""Servers for tests: an ASGI application in a thread of this process, and a scripted backend."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from mmft.serve.child import bound_socket

__all__ = ['FakeBackend', 'data_url', 'eventually', 'question', 'running']


@contextlib.contextmanager
def running(app: Any) -> Iterator[str]:
    """The URL at which an application answers."""
    listener = bound_socket('127.0.0.1', 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level='critical', lifespan='on', timeout_graceful_shutdown=1))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])), daemon=True)
    thread.start()
    eventually(lambda: server.started)
    try:
        yield f'http://127.0.0.1:{listener.getsockname()[1]}'
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


def eventually(true: Any, seconds: float = 20.0) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, 'it never came'
        time.sleep(0.01)


def data_url(image: Image.Image, kind: str = 'PNG', **options: Any) -> str:
    """A picture as clients send it."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return f'data:image/{kind.lower()};base64,{base64.b64encode(stream.getvalue()).decode()}'


def question(text: str = 'What dish is it?', *urls: str, **more: Any) -> dict[str, Any]:
    """The body of a request."""
    parts = [{'type': 'image_url', 'image_url': {'url': url}} for url in urls]
    content = [*parts, {'type': 'text', 'text': text}] if urls else text
    return {'messages': [{'role': 'user', 'content': content}], **more}


@dataclass
class FakeBackend:
    """Answers as ``transformers serve`` or LMDeploy do, and remembers.

    Attributes:
        pieces: of each answer; an exception's text in braces is sent as that backend sends errors.
        pause: seconds between pieces.
        whole: the answer where none is streamed.
        refusal: (status, body) instead of an answer.
        asked: the bodies of all requests.
    """

    kind: str = 'transformers'
    pieces: tuple[str, ...] = ('steamed ', 'rice ', 'rolls')
    pause: float = 0.0
    whole: str = ''
    refusal: tuple[int, Any] | None = None
    asked: list[dict[str, Any]] = field(default_factory=list)
    running: int = 0
    most: int = 0
    left: int = 0

    @property
    def app(self) -> Starlette:
        """To be run."""
        routes = [Route('/v1/chat/completions', self._chat, methods=['POST'])]
        return Starlette(routes=[*routes, Route('/health', lambda request: PlainTextResponse('ok'))])

    async def _chat(self, request: Request) -> Response:
        self.asked.append(await request.json())
        if self.refusal is not None:
            status, body = self.refusal
            return PlainTextResponse(body, status) if isinstance(body, str) else JSONResponse(body, status)
        if not self.asked[-1]['stream']:
            message = {'role': 'assistant', 'content': self.whole}
            return JSONResponse(
                {'choices': [{'message': message, 'finish_reason': 'stop'}], 'usage': {'total_tokens': 9}}
            )
        return StreamingResponse(self._answer(), media_type='text/event-stream')

    async def _answer(self) -> Any:
        self.running += 1
        self.most = max(self.most, self.running)
        done = False
        try:
            for piece in self.pieces:
                if piece.startswith('{'):
                    yield f'data: {piece}\n\n'
                    return
                yield self._event(delta={'content': piece})
                await asyncio.sleep(self.pause)
            usage = {'prompt_tokens': 7, 'completion_tokens': len(self.pieces), 'total_tokens': 7 + len(self.pieces)}
            if self.kind == 'transformers':
                yield self._event(delta={}, finish='stop', usage=usage)
            else:
                yield self._event(delta={}, finish='stop')
                yield self._event(usage=usage) + 'data: [DONE]\n\n'
            done = True
        finally:
            self.running -= 1
            self.left += not done

    @staticmethod
    def _event(delta: dict | None = None, finish: str | None = None, usage: dict | None = None) -> str:
        choices = [] if delta is None else [{'index': 0, 'delta': delta, 'finish_reason': finish}]
        return f'data: {json.dumps({"choices": choices, "usage": usage}, ensure_ascii=False)}\n\n'
