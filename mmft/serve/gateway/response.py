"""``CancellableResponse``: a slow HTTP response, which is cancelled when the client disconnects."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any, TypeAlias

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mmft.serve.gateway.api_error import ApiError

__all__ = ['CancellableResponse', 'Work', 'send_json']

Work: TypeAlias = 'Callable[[Send], Awaitable[None]]'
"""Sends an answer."""


class CancellableResponse(Response):
    """A slow response: cancelled when the client disconnects.

    Args:
        taken: (request) -> a context in which its answer can be made; entering it reads the request.
        count: called with how it ended: ``answered``, ``refused``, ``failed`` or ``left``.
        patience: seconds that a client may read nothing while there is something to read.
    """

    def __init__(
        self,
        taken: Callable[[Request], AbstractAsyncContextManager[Work]],
        count: Callable[[str], None],
        patience: float = 60.0,
    ) -> None:
        self._taken, self._count, self._patience = taken, count, patience
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def watched(message: Any) -> None:
            nonlocal begun
            begun = True
            sending = asyncio.ensure_future(send(message))
            try:  # not `wait_for`, see `_unless_gone`
                done, _ = await asyncio.wait({sending}, timeout=self._patience)
            finally:
                sending.cancel()
            if not done:  # a client that does not read would keep its place at the backend forever
                raise asyncio.TimeoutError
            sending.result()

        try:
            async with self._taken(Request(scope, receive)) as work:
                await _unless_gone(work(watched), receive)
        except ClientDisconnect:
            self._count('left')
        except ApiError as error:
            self._count('refused' if error.status < 500 else 'failed')
            if not begun:  # else it has been sent as an event
                await send_json(send, error.status, error.body, error.headers)
        except Exception as error:
            left = begun and isinstance(error, (asyncio.TimeoutError, TimeoutError))
            self._count('left' if left else 'failed')
            if not left:
                raise
        else:
            self._count('answered')


async def _unless_gone(work: Awaitable[None], receive: Receive) -> None:
    """Wait for the work; end it with ``ClientDisconnect`` when the client goes."""
    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(_until_gone(receive))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        left = not working.done()
    finally:
        gone.cancel()
        while not working.done():
            # More than once: `wait_for` of Python 3.11 loses what comes in the moment in which it has its result.
            working.cancel()
            await asyncio.wait({working}, timeout=1.0)
    if left:
        with suppress(asyncio.CancelledError, Exception):
            working.result()
        raise ClientDisconnect
    working.result()


async def _until_gone(receive: Receive) -> None:
    while (await receive())['type'] != 'http.disconnect':
        pass


async def send_json(send: Send, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
    # Halves of characters, which requests may name and errors repeat, become what JSON writes them as.
    body = json.dumps(content, ensure_ascii=False).encode(errors='backslashreplace')
    head = {'content-type': 'application/json', 'content-length': str(len(body)), **(headers or {})}
    pairs: Sequence[tuple[bytes, bytes]] = [(name.encode(), value.encode()) for name, value in head.items()]
    await send({'type': 'http.response.start', 'status': status, 'headers': pairs})
    await send({'type': 'http.response.body', 'body': body})
