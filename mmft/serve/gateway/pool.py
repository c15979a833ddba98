"""``Pool``: the backends of a server, shared out among the questions that wait."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

from mmft.serve.gateway.api_error import ApiError
from mmft.serve.gateway.intake.request import ChatRequest
from mmft.serve.gateway.upstream import Upstream
from mmft.words import count_of

__all__ = ['Pool']


class Pool:
    """The backends of a server; questions wait in order until one has a slot.

    Args:
        upstreams: at least one.
        most_waiting: how many may wait.

    Attributes:
        running: questions that are being answered.
        inside: these, and those that wait.
    """

    def __init__(self, upstreams: Sequence[Upstream], most_waiting: int = 256) -> None:
        self.upstreams, self.most_waiting = list(upstreams), most_waiting
        self.running = self.inside = 0
        self._queue: deque[tuple[asyncio.Future[Upstream], bool]] = deque()
        for upstream in upstreams:
            upstream.changed = self._share_out

    @property
    def waiting(self) -> int:
        """Questions that wait."""
        return self.inside - self.running

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """A place for a request, from the end of its body to that of its answer.

        Raises:
            ApiError: no further one may wait, or nobody is there to answer.
        """
        self.check_room()
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1

    def check_room(self) -> None:
        """Raise ``ApiError`` where no further request may wait, or nobody is there to answer it."""
        self._check_alive()
        if self.inside >= self.most_waiting + sum(upstream.slots for upstream in self.upstreams):
            message = (
                f'{count_of(self.running, "request")} in progress, {self.waiting} waiting: ask again a little later.'
            )
            raise ApiError(429, message, 'overloaded', retry_after=5)

    def _check_alive(self) -> None:
        if not any(upstream.alive for upstream in self.upstreams):
            raise ApiError(503, 'The backend is restarting.', 'backend_gone', retry_after=10)

    @asynccontextmanager
    async def slot(self, request: ChatRequest) -> AsyncIterator[Upstream]:
        """The backend with the most free slots; waits for one."""
        self._check_alive()
        alone = self.upstreams[0].dialect.alone(request)
        turn: asyncio.Future[Upstream] = asyncio.get_running_loop().create_future()
        self._queue.append((turn, alone))
        self._share_out()
        try:
            chosen = await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # in the same moment
                self._give_back(turn.result(), alone)
            self._share_out()
            raise
        try:
            yield chosen
        finally:
            self._give_back(chosen, alone)

    def _share_out(self) -> None:
        """Give free slots to the first in the queue."""
        while self._queue:
            turn, alone = self._queue[0]
            if not turn.done():
                free = [upstream for upstream in self.upstreams if upstream.has_room(alone)]
                if not free:
                    return
                chosen = max(free, key=lambda upstream: upstream.slots - upstream.busy)
                chosen.busy += chosen.slots if alone else 1
                self.running += 1
                turn.set_result(chosen)
            self._queue.popleft()

    def _give_back(self, upstream: Upstream, alone: bool) -> None:
        upstream.busy -= upstream.slots if alone else 1
        self.running -= 1
        self._share_out()
