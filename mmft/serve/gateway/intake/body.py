"""Bodies that are being read, and how much of that one client may use: only whole requests get a place in the queue.

Strangers can send a body as slowly as they like, and as many at a time as they have connections.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from starlette.requests import ClientDisconnect, Request

from mmft.serve.gateway.api_error import ApiError

__all__ = ['Readers']

SLOWEST = 64 << 10
"""Bytes a second, beyond the first seconds of patience."""


class _Reading:
    """One body. ``heard``: when its last bytes came; ``lost``: done when another one takes its place."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.heard, self.size, self.lost = loop.time(), 0, loop.create_future()


class Readers:
    """Reads bodies.

    Args:
        patience: seconds that a client may be silent; what comes slower than ``SLOWEST`` uses them up.
        most: bodies of one client at a time; a further one takes the place of that which has been silent the longest.
        most_bytes: of these bodies together, as long as they are not whole.
        largest: bytes of one body.
    """

    def __init__(self, patience: float, most: int, most_bytes: int, largest: int) -> None:
        self.patience, self.most, self.most_bytes, self.largest = patience, most, most_bytes, largest
        self._clients: defaultdict[str, list[_Reading]] = defaultdict(list)

    @property
    def reading(self) -> int:
        """How many bodies are being read."""
        return sum(map(len, self._clients.values()))

    async def read(self, request: Request, take: Callable[[int], None]) -> bytearray:
        """The body of a request.

        Args:
            take: called with the number of bytes as they come, and may raise.

        Raises:
            ApiError: it is too large, comes too slowly, or has lost its place.
            ClientDisconnect: the client went before its end.
        """
        with self._place(request.client.host if request.client else '') as (place, others):
            loop, content, more = asyncio.get_running_loop(), bytearray(), True
            end = loop.time() + self.patience
            while more:
                message = await self._next(request, place, end)
                piece, more = message.get('body', b''), message.get('more_body', False)
                if len(content) + len(piece) > self.largest:
                    what = f'The request is larger than {self.largest:,} bytes; send fewer or smaller pictures.'
                    raise ApiError(413, what, 'request_too_large')
                place.heard, place.size = loop.time(), place.size + len(piece)
                if sum(other.size for other in others) > self.most_bytes:
                    message = f'More than {self.most_bytes:,} bytes of this client are on their way: wait for some.'
                    raise ApiError(429, message, 'overloaded', retry_after=5)
                take(len(piece))
                content += piece
                end = min(end + len(piece) / SLOWEST, loop.time() + self.patience)
            return content

    @contextmanager
    def _place(self, client: str) -> Iterator[tuple[_Reading, list[_Reading]]]:
        others = self._clients[client]
        if len(others) >= self.most:
            silent = min(others, key=lambda other: other.heard)
            others.remove(silent)
            silent.lost.set_result(None)
        place = _Reading()
        others.append(place)
        try:
            yield place, others
        finally:
            if place in others:
                others.remove(place)
            if not others and self._clients.get(client) is others:
                del self._clients[client]

    async def _next(self, request: Request, place: _Reading, end: float) -> dict:
        coming = asyncio.ensure_future(request.receive())
        try:  # not `wait_for`, see `response._unless_gone`
            left = end - asyncio.get_running_loop().time()
            await asyncio.wait({coming, place.lost}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if not coming.done() or place.lost.done():
                why = 'and another request of this client took its place' if place.lost.done() else 'too slowly'
                raise ApiError(
                    408, f'Of the request {place.size:,} bytes came, {why}; send it again.', 'request_timeout'
                )
            message = coming.result()
        finally:
            coming.cancel()
        if message['type'] == 'http.disconnect':
            raise ClientDisconnect
        return message
