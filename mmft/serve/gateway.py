"""The gateway: the part of a server that clients talk to. It speaks OpenAI's API whatever the backend does.

Why there is one. ``transformers serve`` 5.23 answers questions one after the other, each right, but reads any file
whose path a client names, fetches any address, knows no session length, no key and no limit to its queue, goes on
generating for clients that have gone, ignores ``temperature``, fails on ``stop``, and answers bad input with a bare
status 500. LMDeploy's ``api_server`` is better at all that, but reads files too, and its proxy passes errors on with
the status 200. Here everything that can be wrong with a request is looked at once, for both, before a backend is asked.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Send

from mmft.errors import DataError
from mmft.serve.answer_text import AnswerText
from mmft.serve.counting import PromptCounter
from mmft.serve.pictures import PictureLoader
from mmft.serve.protocol import ApiError, ChatRequest, chunk, completion, new_id, parse_request, sse
from mmft.serve.reply import Reply, send_json
from mmft.serve.upstream import Piece, Pool

__all__ = ['Gateway', 'GatewaySettings']


@dataclass(frozen=True)
class GatewaySettings:
    """What a gateway allows.

    Attributes:
        names: what the model may be called; the first one is its name.
        about: what ``/health`` says beside the figures.
        api_keys: one of which every request but ``/health`` must bring; empty: none is asked for.
        session_len: most tokens of a conversation and its answer; None: the backend looks after that.
        max_tokens: of an answer, where a request says nothing.
        max_body: bytes of a request.
        max_held: bytes of all requests that are waiting or being answered.
        patience: seconds that a client may leave an answer unread.
        image_root: the folder whose pictures requests may name by path; None: none.
    """

    names: tuple[str, ...]
    about: dict[str, Any]
    api_keys: tuple[str, ...] = ()
    session_len: int | None = None
    max_tokens: int = 1024
    max_body: int = 64 << 20
    max_held: int = 1 << 30
    max_pictures: int = 64
    patience: float = 60.0
    image_root: str | None = None


class Gateway:
    """The application.

    Args:
        pool: the backends.
        counter: counts prompts; None: the backend looks after the session's length.
        pictures: None: the default loader.

    Attributes:
        app: for an ASGI server.
    """

    def __init__(
        self, settings: GatewaySettings, pool: Pool, counter: PromptCounter | None = None,
        pictures: PictureLoader | None = None,
    ) -> None:  # fmt: skip
        self.settings, self.pool, self.counter = settings, pool, counter
        # Two: decoding and counting are short, and pictures that are being decoded are large.
        self._threads = ThreadPoolExecutor(2, thread_name_prefix='gateway')
        self.pictures = pictures or PictureLoader(self._threads, settings.image_root)
        self.done = {'answered': 0, 'refused': 0, 'failed': 0, 'left': 0}
        self._held, self._started = 0, time.time()
        routes = [
            Route('/', self._index),
            Route('/health', self._health),
            Route('/v1/models', self._models),
            Route('/v1/models/{name:path}', self._model),
            Route('/v1/chat/completions', self._chat, methods=['POST']),
        ]
        handlers = {ApiError: _api_error, HTTPException: self._http_error, Exception: _bug}
        self.app = Starlette(routes=routes, exception_handlers=handlers, lifespan=self._lifespan)

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        for upstream in self.pool.upstreams:
            await upstream.open()
        yield
        for upstream in self.pool.upstreams:
            await upstream.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    # -- the small routes

    def _index(self, request: Request) -> Response:
        return JSONResponse({'server': 'mmft serve', 'routes': self._routes(), **self.settings.about})

    def _routes(self) -> list[str]:
        return ['POST /v1/chat/completions', 'GET /v1/models', 'GET /health']

    def _health(self, request: Request) -> Response:
        pool = self.pool
        alive = sum(upstream.alive for upstream in pool.upstreams)
        about = {
            'status': 'ok' if alive else 'backend is being started anew',
            'backends': f'{alive} of {len(pool.upstreams)}',
            'running': pool.running, 'waiting': pool.waiting, 'uptime': round(time.time() - self._started),
        }  # fmt: skip
        return JSONResponse({**about, **self.done, **self.settings.about}, 200 if alive else 503)

    def _models(self, request: Request) -> Response:
        self._check_key(request)
        return JSONResponse({'object': 'list', 'data': [self._card()]})

    def _model(self, request: Request) -> Response:
        self._check_key(request)
        name = request.path_params['name']
        if name not in self.settings.names:
            raise ApiError(404, f'The model {name!r} does not exist; this server has {self.settings.names[0]!r}.',
                           'model_not_found', 'model')  # fmt: skip
        return JSONResponse(self._card())

    def _card(self) -> dict[str, Any]:
        card = {'id': self.settings.names[0], 'object': 'model', 'created': int(self._started), 'owned_by': 'mmft'}
        return card | ({'max_model_len': self.settings.session_len} if self.settings.session_len else {})

    def _http_error(self, request: Request, error: HTTPException) -> Response:
        routes = ', '.join(self._routes())
        message = f'{request.method} {request.url.path}: {error.detail.lower()}. There are {routes}.'
        return _api_error(request, ApiError(error.status_code, message, 'no_such_route'))

    def _check_key(self, request: Request) -> None:
        if not self.settings.api_keys:
            return
        kind, _, given = request.headers.get('authorization', '').partition(' ')
        known = [hmac.compare_digest(given.strip().encode(), key.encode()) for key in self.settings.api_keys]
        if kind.lower() != 'bearer' or not any(known):
            what = 'Wrong api key' if given else 'This server asks for an api key'
            message = f"{what}; expected the header 'Authorization: Bearer KEY' with the KEY it was started with."
            raise ApiError(401, message, 'invalid_api_key')

    # -- chat completions

    async def _chat(self, request: Request) -> Response:
        self._check_key(request)
        self.pool.check_room()
        body = await self._body(request)
        return Reply(lambda send: self._serve(body, send), self._count, self.settings.patience)

    async def _body(self, request: Request) -> bytes:
        kind = request.headers.get('content-type', '').partition(';')[0].strip().lower()
        if kind != 'application/json':
            # Also: a form or a script of a foreign web page cannot send JSON to a loopback port unasked.
            raise ApiError(415, f'Content-Type is {kind or "missing"}; expected application/json.', 'not_json')
        most, content = self.settings.max_body, bytearray()
        async for piece in request.stream():
            content += piece
            if len(content) > most:
                message = f'The request is larger than {most:,} bytes. Send fewer or smaller pictures.'
                raise ApiError(413, message, 'request_too_large')
        return bytes(content)

    async def _serve(self, content: bytes, send: Send) -> None:
        size = len(content)
        if self._held + size > self.settings.max_held:
            raise ApiError(429, 'Requests of too many bytes are waiting: ask again a little later.', 'overloaded',
                           retry_after=5)  # fmt: skip
        self._held += size
        try:
            request = await self._checked(content)
            del content
            async with self.pool.slot(request) as upstream, aclosing(upstream.ask(request)) as pieces:
                if request.stream:
                    await self._stream(request, pieces, send)
                else:
                    await self._whole(request, pieces, send)
        finally:
            self._held -= size

    async def _checked(self, content: bytes) -> ChatRequest:
        """The request with its pictures found and its length known to fit."""
        try:
            body = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise ApiError(400, f'The body is not JSON: {error}.', 'invalid_json') from None
        settings = self.settings
        request = parse_request(body, settings.names, self.pool.upstreams[0].dialect.extra)
        places = request.pictures
        if len(places) > settings.max_pictures:
            raise ApiError(400, f'{len(places)} pictures; expected at most {settings.max_pictures}.', 'invalid_value')
        sizes = []
        for number, place in enumerate(places, 1):
            try:
                picture = await self.pictures.load(place['url'])
            except DataError as error:
                which = f'Picture {number} of {len(places)}' if len(places) > 1 else 'The picture'
                raise ApiError(400, f'{which}: {_one_line(error)}', 'invalid_image', 'messages') from None
            place['url'] = picture.url
            sizes.append(picture.size)
        most = request.max_tokens or settings.max_tokens
        if self.counter is not None:
            loop = asyncio.get_running_loop()
            limit = settings.session_len
            used = await loop.run_in_executor(self._threads, self.counter.count, request.messages, sizes, limit)
            most = min(most, limit - used) if limit is not None else most
        request.max_tokens = most
        return request

    async def _stream(self, request: ChatRequest, pieces: AsyncIterator[Piece], send: Send) -> None:
        answer_id, model, words = new_id(), self.settings.names[0], AnswerText(request.stop)

        async def put(event: bytes, more: bool = True) -> None:
            await send({'type': 'http.response.body', 'body': event, 'more_body': more})

        # What goes wrong before the first piece is still an answer with a status of its own.
        first = await anext(pieces, None)
        headers = [
            (b'content-type', b'text/event-stream'),
            (b'cache-control', b'no-cache'),
            (b'x-accel-buffering', b'no'),
        ]
        await send({'type': 'http.response.start', 'status': 200, 'headers': headers})
        await put(sse(chunk(answer_id, model, {'role': 'assistant', 'content': ''})))
        finish, usage = 'stop', None
        try:
            async for piece in _with_first(first, pieces):
                if text := words.feed(piece.text):
                    await put(sse(chunk(answer_id, model, {'content': text})))
                finish, usage = piece.finish or finish, piece.usage or usage
                if words.hit:
                    finish = 'stop'
                    break
        except ApiError as error:
            await put(sse(error.body), more=False)
            raise
        if text := words.rest():
            await put(sse(chunk(answer_id, model, {'content': text})))
        await put(sse(chunk(answer_id, model, {}, finish)))
        if request.include_usage and usage is not None:
            await put(sse(chunk(answer_id, model, None, usage=usage)))
        await put(sse('[DONE]'), more=False)

    async def _whole(self, request: ChatRequest, pieces: AsyncIterator[Piece], send: Send) -> None:
        texts, finish, usage, words = [], 'stop', None, AnswerText(request.stop)
        async for piece in pieces:
            if piece.whole is not None:
                texts, words = [], AnswerText(request.stop)
            texts.append(words.feed(piece.text if piece.whole is None else piece.whole))
            finish, usage = piece.finish or finish, piece.usage or usage
            if words.hit:
                finish = 'stop'
                break
        text = ''.join(texts) + words.rest()
        answer = completion(new_id(), self.settings.names[0], text, finish, usage)
        await send_json(send, 200, answer)

    def _count(self, what: str) -> None:
        self.done[what] += 1


async def _with_first(first: Piece | None, rest: AsyncIterator[Piece]) -> AsyncIterator[Piece]:
    if first is not None:
        yield first
        async for piece in rest:
            yield piece


def _one_line(error: DataError) -> str:
    """An error of mmft as a sentence or two; a picture that came as bytes has no name worth repeating."""
    what = error.bare if error.file is None or error.file.startswith('<') else error.what
    tail = [f'expected {error.expected}'] if error.expected else []
    tail += [error.fix] if error.fix else []
    return '; '.join([what, *tail]) + '.'


def _api_error(request: Request, error: ApiError) -> Response:
    return JSONResponse(error.body, error.status, error.headers)


def _bug(request: Request, error: Exception) -> Response:
    if isinstance(error, ClientDisconnect):
        return Response(status_code=499)
    return _api_error(request, ApiError(500, f'An error of the server: {type(error).__name__}.', 'bug'))
