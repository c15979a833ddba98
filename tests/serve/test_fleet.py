"""The watchdog: processes that end, hang or do not come back, played by stand-ins."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import httpx
import pytest

from mmft.errors import ServerError
from mmft.serve.backends import fleet as module
from mmft.serve.backends.fleet import MOST_RESTARTS, Fleet, Member
from mmft.serve.gateway.dialects import TransformersDialect
from mmft.serve.gateway.upstream import Upstream


class StandIn:
    """A ``Child`` without a process. ``troubles`` happen at its starts after the first, in order, then none."""

    ready = '/health'

    def __init__(self, name: str, *troubles: Exception) -> None:
        self.name, self.url, self.troubles = name, f'http://{name}', list(troubles)
        self.starts, self.ended = 0, asyncio.Event()

    async def start(self) -> None:
        self.starts += 1
        if self.starts > 1 and self.troubles and isinstance(self.troubles[0], OSError):
            raise self.troubles.pop(0)
        self.ended.clear()

    async def wait_ready(self, seconds: float) -> None:
        if self.starts > 1 and self.troubles:
            raise self.troubles.pop(0)

    async def wait(self) -> int:
        await self.ended.wait()
        return -9

    async def stop(self, grace: float = 5.0) -> None:
        self.ended.set()

    def last_lines(self, count: int = 15) -> str:
        return ''


class Web:
    """Answers what the fleet asks over HTTP.

    Attributes:
        known: the proxy's servers.
        down: the proxy does not answer.
        health: of all servers: a status, or an error.
    """

    def __init__(self) -> None:
        self.known: dict[str, Any] = {}
        self.down, self.health = False, 200

    def __call__(self, request: httpx.Request) -> httpx.Response:
        what = request.url.path.rpartition('/')[2]
        if request.url.path == '/health':
            if isinstance(self.health, Exception):
                raise self.health
            return httpx.Response(self.health)
        if self.down:
            raise httpx.ConnectError('down')
        if what == 'status':
            return httpx.Response(200, json=self.known)
        url = httpx.Response(200, content=request.content).json()['url']
        self.known.pop(url, None) if what == 'remove' else self.known.setdefault(url, {})
        return httpx.Response(200)


@pytest.fixture
def web(monkeypatch) -> Web:
    web, client, sleep = Web(), httpx.AsyncClient, asyncio.sleep
    monkeypatch.setattr(
        module.httpx, 'AsyncClient', lambda **options: client(transport=httpx.MockTransport(web), **options)
    )
    monkeypatch.setattr(module.asyncio, 'sleep', lambda seconds: sleep(0.001))
    return web


def member(child: StandIn, **more: Any) -> Member:
    return Member(child, Upstream(child.url, TransformersDialect('x'), 1), **more)


def play(scene: Callable[[list[str]], Coroutine[Any, Any, Fleet]]) -> list[str]:
    """Run it; what was logged."""
    lines: list[str] = []

    async def run() -> None:
        fleet = await asyncio.wait_for(scene(lines), 20)
        await fleet.stop()

    asyncio.run(run())
    return lines


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0)


@pytest.mark.parametrize('trouble', [ServerError('not ready'), OSError('no memory'), ValueError('a bug')])
def test_a_server_that_does_not_come_back_at_once_is_tried_again(web, trouble):
    async def scene(lines):
        child = StandIn('one', trouble, trouble)
        one = member(child)
        fleet = Fleet([one], None, 5, lines.append)
        await fleet.start()
        child.ended.set()
        await until(lambda: not one.upstream.alive)
        await until(lambda: one.upstream.alive)
        assert (child.starts, fleet.lost.is_set()) == (4, False)
        return fleet

    lines = play(scene)
    assert [line for line in lines if 'does not come back' in line] == [f'one does not come back: {trouble}'] * 2
    assert lines[-1] == 'one is back'


def test_a_server_that_never_comes_back_is_given_up(web):
    async def scene(lines):
        child = StandIn('one', *[ServerError('not ready')] * 99)
        fleet = Fleet([member(child)], None, 5, lines.append)
        await fleet.start()
        child.ended.set()
        await fleet.lost.wait()
        assert child.starts == 1 + MOST_RESTARTS
        return fleet

    assert 'giving up' in play(scene)[-1]


def test_a_server_that_ends_now_and_then_is_never_given_up(web, monkeypatch):
    monkeypatch.setattr(module, 'WINDOW', -1.0)  # each end is long past at the next

    async def scene(lines):
        child = StandIn('one')
        one = member(child)
        fleet = Fleet([one], None, 5, lines.append)
        await fleet.start()
        for ends in range(3 * MOST_RESTARTS):
            child.ended.set()
            await until(lambda ends=ends: child.starts == ends + 2 and one.up)
        assert not fleet.lost.is_set()
        return fleet

    play(scene)


def test_a_server_and_the_proxy_that_end_together(web):
    async def scene(lines):
        proxy, one = member(StandIn('proxy')), Member(StandIn('one'), registered=True)
        proxy.child.ready = '/nodes/status'
        web.known['http://one'] = {}
        fleet = Fleet([one], proxy, 5, lines.append)
        await fleet.start()
        web.down = True
        web.known.clear()
        for each in (proxy, one):
            each.child.ended.set()
        await until(lambda: one.child.starts == proxy.child.starts == 2 and one.up and proxy.up)
        assert (proxy.upstream.alive, fleet.lost.is_set()) == (True, False)
        web.down = False
        await until(lambda: 'http://one' in web.known)  # whoever was not told, is told later
        return fleet

    play(scene)


@pytest.mark.parametrize('health', [500, httpx.ReadTimeout('silent'), httpx.ConnectError('its port is closed')])
def test_a_server_that_cannot_work_or_hangs_is_ended(web, health):
    async def scene(lines):
        one = member(StandIn('one'))
        fleet = Fleet([one], None, 5, lines.append)
        await fleet.start()
        web.health = health
        await until(lambda: one.child.starts == 2)
        web.health = 200
        await until(lambda: one.upstream.alive)
        return fleet

    said = play(scene)[0]
    assert said == ('one says that it cannot work (/health: 500)' if health == 500 else
                    f'one has not answered {module.MOST_SILENT} times (/health)')  # fmt: skip


def test_servers_that_the_proxy_does_not_know(web):
    async def scene():
        with pytest.raises(ServerError, match='does not know http://one'):
            await Fleet([Member(StandIn('one'), registered=True)], member(StandIn('proxy')), 5, print).start()

    asyncio.run(scene())
