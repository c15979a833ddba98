"""The processes behind a gateway: started together, started anew when one ends, stopped together."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import httpx

from mmft.errors import ServerError
from mmft.serve.child import Child
from mmft.serve.upstream import Upstream

__all__ = ['Fleet', 'Member']

MOST_RESTARTS, WINDOW = 5, 600.0
"""A process that ends more often than this in so many seconds will not do better the next time."""


@dataclass
class Member:
    """One process.

    Attributes:
        upstream: what the gateway asks, if it asks this process itself.
        registered: the process tells LMDeploy's proxy of itself when it starts; it is struck off there when it ends.
    """

    child: Child
    upstream: Upstream | None = None
    registered: bool = False


class Fleet:
    """All processes.

    Args:
        members: the servers.
        proxy: LMDeploy's proxy in front of them, started before them.
        start_timeout: seconds that a server may take to load its model.
        log: is told of ends and starts.

    Attributes:
        lost: set when a process cannot be kept alive.
    """

    def __init__(
        self, members: Sequence[Member], proxy: Member | None, start_timeout: float, log: Callable[[str], None]
    ) -> None:
        self.members, self.proxy, self.start_timeout, self.log = list(members), proxy, start_timeout, log
        self.lost = asyncio.Event()
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def everyone(self) -> list[Member]:
        """The proxy, if there is one, and the servers."""
        return [*([self.proxy] if self.proxy is not None else []), *self.members]

    async def start(self) -> None:
        """Start all, and return when all are ready.

        Raises:
            ServerError: one ends, or takes too long.
        """
        if self.proxy is not None:
            await self.proxy.child.start()
            await self.proxy.child.wait_ready(120.0)
        for member in self.members:
            await member.child.start()
        await asyncio.gather(*(member.child.wait_ready(self.start_timeout) for member in self.members))
        if self.proxy is not None:
            await self._check_registered()
        self._tasks = [asyncio.ensure_future(self._keep(member)) for member in self.everyone]
        self._tasks += [asyncio.ensure_future(self._watch(member)) for member in self.members]

    async def stop(self) -> None:
        """Stop all."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(member.child.stop() for member in self.everyone))

    async def _keep(self, member: Member) -> None:
        """Start a process anew whenever it ends."""
        ends: list[float] = []
        while not self._stopping:
            status = await member.child.wait()
            if member.upstream is not None:
                member.upstream.alive = False
            ends = [end for end in ends if end > time.monotonic() - WINDOW] + [time.monotonic()]
            self.log(f'{member.child.name} ended with status {status}:\n{member.child.last_lines(5)}')
            with contextlib.suppress(ServerError, httpx.HTTPError):
                if member.registered:
                    await self._tell_proxy('remove', member)
                if len(ends) <= MOST_RESTARTS:
                    self.log(f'{member.child.name} is started anew')
                    await asyncio.sleep(min(2.0 ** (len(ends) - 1), 30.0))
                    await member.child.stop(grace=0.5)  # what is left of its group
                    await member.child.start()
                    await member.child.wait_ready(self.start_timeout)
                    if member is self.proxy:
                        for other in self.members:
                            await self._tell_proxy('add', other)
                    if member.upstream is not None:
                        member.upstream.alive = True
                    self.log(f'{member.child.name} is back')
                    continue
            if len(ends) > MOST_RESTARTS:
                self.log(f'{member.child.name} ended {len(ends)} times within {WINDOW:.0f} s: giving up')
                self.lost.set()
                return

    async def _watch(self, member: Member) -> None:
        """End a process that says three times that it cannot work: LMDeploy's server outlives its engine."""
        bad = 0
        async with httpx.AsyncClient(trust_env=False, timeout=10.0) as client:
            while not self._stopping:
                await asyncio.sleep(10.0)
                try:
                    status = (await client.get(f'{member.child.url}/health')).status_code
                except httpx.HTTPError:  # busy, or being started: `_keep` sees an end
                    continue
                bad = bad + 1 if status != 200 else 0
                if bad >= 3:
                    self.log(f'{member.child.name} says that it cannot work (/health: {status})')
                    bad = 0
                    await member.child.stop(grace=2.0)

    async def _tell_proxy(self, what: str, member: Member) -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=10.0) as client:
            await client.post(f'{self.proxy.child.url}/nodes/{what}', json={'url': member.child.url})

    async def _check_registered(self) -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=10.0) as client:
            known = (await client.get(f'{self.proxy.child.url}/nodes/status')).json()
        missing = [member.child.url for member in self.members if member.child.url not in known]
        if missing:
            raise ServerError(f"LMDeploy's proxy does not know {', '.join(missing)}", fix='start the server again')
