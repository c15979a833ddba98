"""The processes behind a gateway: started together, restarted when one ends, stopped together."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import httpx

from mmft.errors import ServerError
from mmft.serve.backends.child_process import Child
from mmft.serve.gateway.upstream import Upstream

__all__ = ['Fleet', 'Member']

MOST_RESTARTS, WINDOW = 5, 600.0
"""A process that ends more often than this in so many seconds will not do better the next time."""

MOST_BAD, MOST_SILENT = 3, 12
"""How often in a row a process reports that it cannot work, or does not answer, before it is ended."""


@dataclass
class Member:
    """One process.

    Attributes:
        upstream: what the gateway asks, if it asks this process itself.
        registered: the process registers with LMDeploy's proxy when it starts; it is removed there when it ends.
        up: it was ready, and has not ended since.
    """

    child: Child
    upstream: Upstream | None = None
    registered: bool = False
    up: bool = True


class Fleet:
    """All processes.

    Args:
        members: the servers.
        proxy: LMDeploy's proxy in front of them, started before them.
        start_timeout: seconds that a server may take to load its model.
        log: called with a line when a process ends or starts.

    Attributes:
        pause: seconds between two checks of a process.
        lost: set when a process cannot be kept alive.
    """

    def __init__(
        self, members: Sequence[Member], proxy: Member | None, start_timeout: float, log: Callable[[str], None]
    ) -> None:
        self.members, self.proxy, self.start_timeout, self.log = list(members), proxy, start_timeout, log
        self.pause, self.lost = 10.0, asyncio.Event()
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
        self._tasks += [asyncio.ensure_future(self._watch(member)) for member in self.everyone]

    async def stop(self) -> None:
        """Stop all."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(member.child.stop() for member in self.everyone))

    async def _keep(self, member: Member) -> None:
        """Start a process anew whenever it ends."""
        child, ends = member.child, []
        while not self._stopping:
            status = await child.wait()
            if member.up:  # else it never came back from the last of them
                ends = [end for end in ends if end > time.monotonic() - WINDOW]
            self._is_up(member, False)
            ends.append(time.monotonic())
            self.log(f'{child.name} ended with status {status}:\n{child.last_lines(5)}')
            if len(ends) > MOST_RESTARTS:
                self.log(f'{child.name} ended {len(ends)} times in a short time: giving up')
                self.lost.set()
                return
            self.log(f'restarting {child.name}')
            await asyncio.sleep(min(2.0 ** (len(ends) - 1), 30.0))
            try:
                await self._restart(member)
            except Exception as error:  # of whichever kind: a server without its backend is no server
                self.log(f'{child.name} does not come back: {error}')
                with contextlib.suppress(OSError):
                    await child.stop(grace=0.5)  # so that the next turn sees it end
                continue
            self._is_up(member, True)
            self.log(f'{child.name} is back')

    async def _restart(self, member: Member) -> None:
        if member.registered:
            await self._tell_proxy('remove', member)
        await member.child.stop(grace=0.5)  # what is left of its group
        await member.child.start()
        await member.child.wait_ready(self.start_timeout)
        if member is self.proxy:
            for other in self.members:
                await self._tell_proxy('add', other)

    def _is_up(self, member: Member, up: bool) -> None:
        member.up = up
        if member.upstream is not None:
            member.upstream.alive = up

    async def _watch(self, member: Member) -> None:
        """End a process that cannot work, or hangs: LMDeploy's server, for one, outlives its engine."""
        child, bad, silent = member.child, 0, 0
        async with httpx.AsyncClient(trust_env=False, timeout=10.0) as client:
            while not self._stopping:
                await asyncio.sleep(self.pause)
                if not member.up:  # `_keep` restarts it
                    bad = silent = 0
                    continue
                try:
                    status = (await client.get(child.url + child.ready)).status_code
                except httpx.HTTPError:  # it may be busy, for a while, or about to end
                    silent += 1
                    why = f'has not answered {silent} times ({child.ready})'
                else:
                    silent, bad = 0, bad + 1 if status != 200 else 0
                    why = f'says that it cannot work ({child.ready}: {status})'
                    if status == 200 and member.registered:
                        await self._keep_registered(member)
                if bad >= MOST_BAD or silent >= MOST_SILENT:
                    self.log(f'{child.name} {why}')
                    bad = silent = 0
                    await child.stop(grace=2.0)

    async def _keep_registered(self, member: Member) -> None:
        """The proxy removes servers that answer it too late, or forgot them when it was restarted."""
        with contextlib.suppress(httpx.HTTPError, ValueError):
            if member.child.url not in await self._registered():
                await self._tell_proxy('add', member)

    async def _tell_proxy(self, what: str, member: Member) -> None:
        with contextlib.suppress(httpx.HTTPError):  # `_watch` handles those that it has not heard of
            async with httpx.AsyncClient(trust_env=False, timeout=10.0) as client:
                await client.post(f'{self.proxy.child.url}/nodes/{what}', json={'url': member.child.url})

    async def _registered(self) -> Collection[str]:
        async with httpx.AsyncClient(trust_env=False, timeout=10.0) as client:
            return (await client.get(f'{self.proxy.child.url}/nodes/status')).json()

    async def _check_registered(self) -> None:
        known = await self._registered()
        missing = [member.child.url for member in self.members if member.child.url not in known]
        if missing:
            raise ServerError(f"LMDeploy's proxy does not know {', '.join(missing)}", fix='start the server again')
