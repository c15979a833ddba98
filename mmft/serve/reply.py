"""``Reply``: an HTTP answer that takes its time to make, and is given up when the client goes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mmft.serve.protocol import ApiError

__all__ = ['Reply', 'send_json']


class Reply(Response):
    """An answer that takes its time: given up when the client goes.

    Args:
        work: sends the answer.
        count: is told how it ended.
        patience: seconds that a client may read nothing while there is something to read.
    """

    def __init__(
        self, work: Callable[[Send], Awaitable[None]], count: Callable[[str], None], patience: float = 60.0
    ) -> None:
        self._work, self._count, self._patience = work, count, patience
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def watched(message: Any) -> None:
            nonlocal begun
            begun = True
            # A client that does not read would keep its place at the backend for ever.
            await asyncio.wait_for(send(message), self._patience)

        work = asyncio.ensure_future(self._work(watched))
        gone = asyncio.ensure_future(_until_gone(receive))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (work, gone):
                if not task.done():
                    task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await work
        error = None if work.cancelled() else work.exception()
        if work.cancelled() or (begun and isinstance(error, (asyncio.TimeoutError, TimeoutError))):
            self._count('left')
            return
        if error is None:
            self._count('answered')
            return
        self._count('refused' if isinstance(error, ApiError) and error.status < 500 else 'failed')
        if begun and isinstance(error, ApiError):
            return  # it has been sent as an event
        if begun or not isinstance(error, ApiError):
            raise error
        await send_json(send, error.status, error.body, error.headers)


async def _until_gone(receive: Receive) -> None:
    while (await receive())['type'] != 'http.disconnect':
        pass


async def send_json(send: Send, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
    body = json.dumps(content, ensure_ascii=False).encode()
    head = {'content-type': 'application/json', 'content-length': str(len(body)), **(headers or {})}
    pairs: Sequence[tuple[bytes, bytes]] = [(name.encode(), value.encode()) for name, value in head.items()]
    await send({'type': 'http.response.start', 'status': status, 'headers': pairs})
    await send({'type': 'http.response.body', 'body': body})
