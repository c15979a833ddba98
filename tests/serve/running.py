"""Servers for tests: an ASGI application in a thread of this process, a scripted backend, and a gateway before it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import openai
import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from mmft.ports import bound_socket
from mmft.serve.gateway.api_error import ApiError
from mmft.serve.gateway.app import Gateway
from mmft.serve.gateway.dialects import LMDeployDialect, TransformersDialect
from mmft.serve.gateway.pool import Pool
from mmft.serve.gateway.settings import GatewaySettings
from mmft.serve.gateway.upstream import Upstream

__all__ = ['ANSWER', 'HEAD', 'FakeBackend', 'Setup', 'data_url', 'encoded', 'eventually', 'question', 'running']

ANSWER = 'steamed rice rolls'
HEAD = 'POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n'


@contextlib.contextmanager
def running(app: Any, **options: Any) -> Iterator[str]:
    """The URL at which an application answers; options as of ``uvicorn.Config``."""
    listener = bound_socket('127.0.0.1', 0)
    config = uvicorn.Config(app, log_level='critical', lifespan='on', timeout_graceful_shutdown=1, **options)
    server = uvicorn.Server(config)
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
    return f'data:image/{kind.lower()};base64,{base64.b64encode(encoded(image, kind, **options)).decode()}'


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """A picture's file."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


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


class WordCounter:
    """As ``PromptCounter``, a token a word and ten a picture."""

    def count(self, messages, sizes, limit):
        words = sum(len(m['content'].split()) for m in messages if isinstance(m['content'], str)) + 10 * len(sizes)
        if words >= limit:
            raise ApiError(400, f'This conversation has {words} tokens; the session has {limit}.',
                           'context_length_exceeded', 'messages')  # fmt: skip
        return words

    def tokens(self, text):
        return len(text.split())


class Setup:
    """A scripted backend with a gateway in front.

    Args:
        stack: what is started here ends with it.
        settings: of the gateway.
    """

    def __init__(self, stack, backend=None, slots=1, most_waiting=64, pictures=None, **settings):
        self.backend = backend or FakeBackend()
        dialect = TransformersDialect('/models/food') if self.backend.kind == 'transformers' else (
            LMDeployDialect('food-1', pictures_first=True))  # fmt: skip
        self.upstream = Upstream(stack.enter_context(running(self.backend.app)), dialect, slots)
        settings = {'session_len': 100, **settings}
        self.gateway = Gateway(
            GatewaySettings(('food', 'exported/food'), {'backend': self.backend.kind}, **settings),
            Pool([self.upstream], most_waiting), WordCounter(), pictures,
        )  # fmt: skip
        self.url = stack.enter_context(running(self.gateway.app))
        self.http = stack.enter_context(httpx.Client(timeout=20))

    def ask(self, body=None, **more) -> httpx.Response:
        content = {'json': body if body is not None else question()}
        return self.http.post(f'{self.url}/v1/chat/completions', **{**content, **more})

    def connect(self) -> socket.socket:
        host, port = self.url.removeprefix('http://').split(':')
        return socket.create_connection((host, int(port)))

    def sent(self, url: str) -> Image.Image:
        """The picture that the backend got for a URL."""
        assert self.ask(question('What is it?', url)).status_code == 200
        got = self.asked_picture
        assert got.partition(',')[0] in [f'data:image/{kind};base64' for kind in ('png', 'jpeg', 'webp')]
        return Image.open(io.BytesIO(base64.b64decode(got.partition(',')[2])))

    @property
    def asked_picture(self) -> str:
        return self.backend.asked[-1]['messages'][0]['content'][0]['image_url']['url']

    def error(self, body=None, **more) -> tuple[int, dict]:
        answer = self.ask(body, **more)
        assert set(answer.json()) == {'error'}
        assert set(answer.json()['error']) == {'message', 'type', 'param', 'code'}
        return answer.status_code, answer.json()['error']

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f'{self.url}/v1', api_key='none', max_retries=0)
