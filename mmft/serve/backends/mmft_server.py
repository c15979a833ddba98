"""mmft itself as a backend: whatever ``mmft.load`` reads, one question at a time, for the gateway on this machine.

Run as a program (``python -m mmft.serve.backends.mmft_server DIRECTORY --port N``). It listens on loopback, speaks as
much of OpenAI's API as the gateway asks, and takes pictures as data URLs only.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any

from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Send

from mmft.data.prompt import from_parts
from mmft.errors import DataError, MMFTError
from mmft.serve.gateway.api_error import ApiError
from mmft.serve.gateway.completion import Completion
from mmft.serve.gateway.intake.pictures import KNOWN_FORMATS, from_data_url
from mmft.serve.gateway.intake.request import ChatRequest, parse_request
from mmft.serve.gateway.response import CancellableResponse, Work
from mmft.serve.gateway.upstream import Piece
from mmft.talk.local_answerer import LocalAnswerer

__all__ = ['EXTRA', 'MmftServer', 'main']

EXTRA = ('logit_bias',)
"""Fields that it follows beyond those that every backend does."""

_NAME = 'mmft'
_MAX_TOKENS = 1024  # where a request says nothing; the gateway always does


class MmftServer:
    """The application.

    Attributes:
        app: for an ASGI server.
    """

    def __init__(self, answerer: LocalAnswerer) -> None:
        self.answerer = answerer
        routes = [
            Route('/health', lambda request: JSONResponse({'status': 'ok'})),
            Route('/v1/chat/completions', self._chat, methods=['POST']),
        ]
        self.app = Starlette(routes=routes)

    def _chat(self, request: Request) -> Response:
        return CancellableResponse(self._taken, lambda how: None)

    @asynccontextmanager
    async def _taken(self, request: Request) -> AsyncIterator[Work]:
        try:
            body = json.loads(await request.body())
        except ValueError as error:
            raise ApiError(400, f'The body is not JSON: {error}.', 'invalid_json') from None
        yield partial(self._answer, parse_request(body, (_NAME,), EXTRA))

    async def _answer(self, request: ChatRequest, send: Send) -> None:
        async with aclosing(self._pieces(request)) as pieces:
            await Completion(request, _NAME).send(pieces, send)

    async def _pieces(self, request: ChatRequest) -> AsyncIterator[Piece]:
        """The answer as a thread makes it. Closing the iterator stops the model."""
        loop, stop, news = asyncio.get_running_loop(), threading.Event(), asyncio.Queue[Any]()
        settings = {'max_new_tokens': request.max_tokens or _MAX_TOKENS, **request.sampling, **request.extra}

        def work() -> None:
            try:
                messages, urls = from_parts(request.messages)
                for made in self.answerer.generate(messages, [_picture(url) for url in urls], settings, stop):
                    loop.call_soon_threadsafe(news.put_nowait, made)
                last = None
            except BaseException as error:  # raised again where the answer is sent
                last = error
            loop.call_soon_threadsafe(news.put_nowait, last)

        threading.Thread(target=work, name='answer', daemon=True).start()
        try:
            while (made := await news.get()) is not None:
                if isinstance(made, DataError):
                    raise ApiError(400, ' '.join(str(made).split()), 'invalid_value', 'messages') from made
                if isinstance(made, BaseException):
                    raise made
                usage = _usage(made.prompt_tokens, made.new_tokens) if made.finish else None
                yield Piece(made.text, made.finish or None, usage)
        finally:
            stop.set()


def _usage(asked: int, made: int) -> dict[str, int]:
    return {'prompt_tokens': asked, 'completion_tokens': made, 'total_tokens': asked + made}


def _picture(url: str) -> Image.Image:
    if url[:5].lower() != 'data:':
        raise DataError(f'{url[:60]!r}: no data URL', expected='a picture as the gateway hands it on')
    try:
        return Image.open(io.BytesIO(from_data_url(url)), formats=KNOWN_FORMATS)
    except OSError as error:
        raise DataError(f'not a picture: {error}') from None


def main(argv: list[str] | None = None) -> int:
    """Load the model and answer until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('directory')
    parser.add_argument('--port', type=int, required=True)
    parser.add_argument('--device', default='auto')
    parser.add_argument('--dtype', default='auto')
    parser.add_argument('--base')
    parser.add_argument('--allow-code', action='append', default=[])
    parser.add_argument('--code-path', action='append', default=[], help='where allowed modules are found, after all')
    args = parser.parse_args(argv)

    import uvicorn

    from mmft.user_code import allow_code

    sys.path.extend(args.code_path)
    try:
        allow_code(args.allow_code, '--allow-code')
        device = None if args.device == 'auto' else args.device
        answerer = LocalAnswerer(args.directory, args.base, device=device, dtype=args.dtype)
    except MMFTError as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    app = MmftServer(answerer).app
    uvicorn.run(app, host='127.0.0.1', port=args.port, log_level='warning', timeout_graceful_shutdown=1)
    return 0


if __name__ == '__main__':
    sys.exit(main())
