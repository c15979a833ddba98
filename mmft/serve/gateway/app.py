"""The gateway: the part of a server that clients talk to. It speaks OpenAI's API whatever the backend does.

Why there is one. ``transformers serve`` 5.23 answers questions one after the other, each right, but reads any file
whose path a client names, fetches any address, knows no session length, no key and no limit to its queue, goes on
generating for clients that have gone, ignores ``temperature``, fails on ``stop``, and answers bad input with a bare
status 500. LMDeploy's ``api_server`` is better at all that, but reads files too, and its proxy passes errors on with
the status 200. Here everything that can be wrong with a request is checked once, for both, before a backend is asked.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Send

from mmft.serve.gateway.api_error import ApiError
from mmft.serve.gateway.completion import Completion
from mmft.serve.gateway.intake.intake import Intake, RequestMemory
from mmft.serve.gateway.intake.pictures import PictureLoader
from mmft.serve.gateway.intake.prompt_count import PromptCounter
from mmft.serve.gateway.intake.request import ChatRequest
from mmft.serve.gateway.pool import Pool
from mmft.serve.gateway.response import CancellableResponse, Work
from mmft.serve.gateway.settings import GatewaySettings

__all__ = ['Gateway']


class Gateway:
    """The application.

    Args:
        pool: the backends.
        counter: counts prompts; None: the backend limits the session's length.
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
        self.pictures = pictures or PictureLoader(
            self._threads, settings.image_root, hosts=settings.picture_hosts, background=settings.background
        )
        self.memory = RequestMemory(settings.max_held)
        self._intake = Intake(settings, pool.upstreams[0].dialect.extra, counter, self.pictures, self._threads)
        self.done = {'answered': 0, 'refused': 0, 'failed': 0, 'left': 0}
        self._started = time.time()
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
        await self.pictures.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    # -- the small routes

    def _index(self, request: Request) -> Response:
        self._check_caller(request)
        return JSONResponse({'server': 'mmft serve', 'routes': self._routes(), **self.settings.about})

    def _routes(self) -> list[str]:
        return ['POST /v1/chat/completions', 'GET /v1/models', 'GET /health']

    def _health(self, request: Request) -> Response:
        pool = self.pool
        alive = sum(upstream.alive for upstream in pool.upstreams)
        about = {
            'status': 'ok' if alive else 'backend is restarting',
            'backends': f'{alive} of {len(pool.upstreams)}',
            'running': pool.running, 'waiting': pool.waiting, 'reading': self._intake.readers.reading,
            'uptime': round(time.time() - self._started),
        }  # fmt: skip
        return JSONResponse({**about, **self.done}, 200 if alive else 503)

    def _models(self, request: Request) -> Response:
        self._check_caller(request)
        return JSONResponse({'object': 'list', 'data': [self._card()]})

    def _model(self, request: Request) -> Response:
        self._check_caller(request)
        name = request.path_params['name']
        if name not in self.settings.names:
            raise ApiError(404, f'The model {name!r} does not exist; this server has {self.settings.names[0]!r}.',
                           'model_not_found', 'model')  # fmt: skip
        return JSONResponse(self._card())

    def _card(self) -> dict[str, Any]:
        card = {'id': self.settings.names[0], 'object': 'model', 'created': int(self._started), 'owned_by': 'mmft',
                'background': self.settings.background}  # fmt: skip
        return card | ({'max_model_len': self.settings.session_len} if self.settings.session_len else {})

    def _http_error(self, request: Request, error: HTTPException) -> Response:
        routes = ', '.join(self._routes())
        message = f'{request.method} {request.url.path}: {error.detail.lower()}. There are {routes}.'
        return _api_error(request, ApiError(error.status_code, message, 'no_such_route'))

    def _check_caller(self, request: Request) -> None:
        """Raise ``ApiError`` for a caller without a key, or one that a web page may have sent."""
        hosts, keys = self.settings.hosts, self.settings.api_keys
        if hosts and _host(request) not in hosts:
            message = f'The Host header names {_host(request)!r}; without an api key this server answers to '
            raise ApiError(403, f'{message}{", ".join(hosts)} only. Start it with --api-key KEY.', 'wrong_host')
        if not keys:
            return
        kind, _, given = request.headers.get('authorization', '').partition(' ')
        given = given.strip()
        known = [hmac.compare_digest(given.encode(), key.encode()) for key in keys]
        if kind.lower() != 'bearer' or not given or not any(known):
            what = 'Wrong api key' if given else 'This server asks for an api key'
            message = f"{what}; expected the header 'Authorization: Bearer KEY' with the KEY it was started with."
            raise ApiError(401, message, 'invalid_api_key')

    # -- chat completions

    def _chat(self, request: Request) -> Response:
        return CancellableResponse(self._taken, self._count, self.settings.patience)

    @asynccontextmanager
    async def _taken(self, request: Request) -> AsyncIterator[Work]:
        """Holds memory from before the body is read, and a place in the queue from its end, until the answer ends."""
        self._check_caller(request)
        self.pool.check_room()  # else the body would be read for nothing
        with self.memory.hold() as take:
            read = await self._intake.read(request, take)
            with self.pool.admitted():
                yield partial(self._answer, read, take)

    async def _answer(self, request: ChatRequest, take: Any, send: Send) -> None:
        await self._intake.check(request, take)
        tokens = partial(self._intake.run, self.counter.tokens) if self.counter is not None else None
        completion = Completion(request, self.settings.names[0], tokens)
        async with self.pool.slot(request) as upstream, aclosing(upstream.ask(request)) as pieces:
            await completion.send(pieces, send)

    def _count(self, what: str) -> None:
        self.done[what] += 1


def _host(request: Request) -> str:
    """The name in the Host header, without its port; an address of IPv6 without its brackets."""
    host = request.headers.get('host', '').strip().lower()
    return host[1:].partition(']')[0] if host.startswith('[') else host.partition(':')[0]


def _api_error(request: Request, error: ApiError) -> Response:
    return JSONResponse(error.body, error.status, error.headers)


def _bug(request: Request, error: Exception) -> Response:
    return _api_error(request, ApiError(500, f'An error of the server: {type(error).__name__}.', 'bug'))
