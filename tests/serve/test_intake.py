"""The way in: what strangers can make large or slow is bounded, and given back whatever becomes of the request."""

from __future__ import annotations

import asyncio
import contextlib
import json
import select
import socket
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from mmft.serve.gateway.api_error import ApiError
from mmft.serve.gateway.http_protocol import PatientProtocol
from mmft.serve.gateway.intake import intake
from mmft.serve.gateway.intake.body import Readers
from mmft.serve.gateway.intake.fetch import Fetcher
from mmft.serve.gateway.intake.intake import RequestMemory
from mmft.serve.gateway.intake.pictures import PictureLoader
from tests.export.tiny import picture
from tests.serve.running import HEAD, FakeBackend, data_url, encoded, eventually, question, running


def test_memory_is_given_back_at_the_end():
    memory = RequestMemory(100)
    with memory.hold() as take:
        take(60)
        with memory.hold() as another:
            with pytest.raises(ApiError, match='a little later') as error:
                another(41)
            assert (error.value.status, memory.held) == (429, 60)
            another(40)
            another(-10)
        assert memory.held == 60
    with pytest.raises(ApiError), memory.hold() as take:
        take(101)
    assert memory.held == 0


def test_the_door_closes_before_bodies_are_read(make):
    setup = make(FakeBackend(pause=20), most_waiting=0)  # and one slot
    with ThreadPoolExecutor(1) as clients, contextlib.suppress(httpx.ReadTimeout):
        asked = clients.submit(setup.ask, timeout=0.5)
        eventually(lambda: setup.backend.running == 1)
        with setup.connect() as client:
            client.sendall(HEAD.format(1000).encode() + b'{')
            assert client.recv(4096).startswith(b'HTTP/1.1 429')
        asked.result()


def test_bodies_that_drip_take_no_place_in_the_queue(make):
    setup = make(most_waiting=1, most_reading=40)
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(setup.connect()) for _ in range(60)]
        for client in slow:
            client.sendall(HEAD.format(1000).encode() + b'{"messages"')
        eventually(lambda: setup.gateway.done['refused'] == 20)  # those that lost their place to a newer one
        health = setup.http.get(f'{setup.url}/health').json()
        assert (health['waiting'], health['reading']) == (0, 40)
        assert setup.ask().status_code == 200  # of the same client
        lost = [client for client in slow if _answered(client)]
        assert len(lost) == 21
        answer = lost[0].recv(4096)
        assert answer.startswith(b'HTTP/1.1 408')
        assert b'took its place' in answer
        assert b'connection: close' in answer
    eventually(lambda: (setup.gateway.memory.held, setup.gateway._intake.readers.reading) == (0, 0))


def _answered(client):
    return bool(select.select([client], [], [], 0)[0])


def test_the_longest_silent_body_loses_its_place():
    """Each client has places of its own."""

    async def run():
        readers, taken = Readers(60, 2, 1000, 1000), []
        requests = {name: Waiting(name[0]) for name in ('a1', 'a2', 'a3', 'b1')}
        tasks = {}
        for name, request in requests.items():
            tasks[name] = asyncio.ensure_future(readers.read(request, taken.append))
            await asyncio.sleep(0)
            if name == 'a2':
                requests['a1'].say(b'x')  # so that a2 is the one
                while not taken:
                    await asyncio.sleep(0)
        with pytest.raises(ApiError, match='took its place') as error:
            await tasks['a2']
        assert (error.value.status, readers.reading) == (408, 3)
        for name in ('a1', 'a3', 'b1'):
            requests[name].say(b'y', False)
        assert [bytes(await tasks[name]) for name in ('a1', 'a3', 'b1')] == [b'xy', b'y', b'y']
        assert readers.reading == 0

    asyncio.run(run())


def test_one_client_does_not_fill_the_memory_with_bodies_that_do_not_end():
    async def run():
        readers = Readers(60, 9, 1000, 800)
        first, second, other = Waiting('a'), Waiting('a'), Waiting('b')
        tasks = [asyncio.ensure_future(readers.read(request, lambda size: None)) for request in (first, second, other)]
        for request in (first, other, second):
            request.say(b'x' * 600)
            await asyncio.sleep(0.01)
        with pytest.raises(ApiError, match='of this client') as error:
            await tasks[1]
        assert error.value.status == 429
        for request in (first, other):
            request.say(b'', False)
        assert [len(await task) for task in (tasks[0], tasks[2])] == [600, 600]

    asyncio.run(run())


class Waiting:
    """A request whose body comes when it is said."""

    def __init__(self, host):
        self.client, self._queue = SimpleNamespace(host=host), asyncio.Queue()

    def say(self, body, more=True):
        self._queue.put_nowait({'type': 'http.request', 'body': body, 'more_body': more})

    async def receive(self):
        return await self._queue.get()


def test_a_fast_beginning_earns_no_hour_of_silence():
    async def run():
        readers, request = Readers(0.1, 9, 1 << 30, 1 << 30), Waiting('a')
        request.say(bytes(64 << 20))  # at the slowest rate: a quarter of an hour
        with pytest.raises(ApiError, match='too slowly'):
            await asyncio.wait_for(readers.read(request, lambda size: None), 20)

    asyncio.run(run())


@pytest.mark.parametrize('sent', [b'', b'GET / HT', b'GET /health HTTP/1.1\r\nHost: x\r\nX: '])
def test_a_head_that_does_not_come_is_given_up(make, monkeypatch, sent):
    monkeypatch.setattr(PatientProtocol, 'head_seconds', 0.2)
    setup = make()
    with running(setup.gateway.app, http=PatientProtocol) as url:
        host, port = url.removeprefix('http://').split(':')
        with socket.create_connection((host, int(port)), timeout=20) as client:
            client.sendall(sent)
            assert client.recv(4096) == b''  # closed
        with socket.create_connection((host, int(port)), timeout=20) as client:
            for _ in range(2):  # a second one on the same connection
                client.sendall(b'GET /health HTTP/1.1\r\nHost: x\r\n\r\n')
                answer = b''
                while not answer.endswith(b'}'):
                    answer += client.recv(4096)
                assert answer.startswith(b'HTTP/1.1 200')
            client.sendall(sent or b'G')
            assert client.recv(4096) == b''


def test_pictures_that_come_too_slowly_together(make, monkeypatch):
    setup = make(patience=0.0)
    monkeypatch.setattr('mmft.serve.gateway.intake.body.SLOWEST', 1)
    setup.gateway._intake.readers.patience = 60
    status, error = setup.error(question('?', 'http://127.0.0.1:1/a.png'))
    assert (status, error['code']) == (400, 'invalid_image')
    assert 'to fetch' in error['message']


def test_a_body_that_does_not_come_is_given_up(make):
    setup = make(patience=0.2)
    with setup.connect() as client:
        client.sendall(HEAD.format(1000).encode() + b'{"messages"')
        answer = b''.join(iter(lambda: client.recv(4096), b''))  # until it is closed
    assert answer.startswith(b'HTTP/1.1 408')
    assert b'11 bytes came, too slowly' in answer
    eventually(lambda: (setup.gateway.pool.inside, setup.gateway.memory.held) == (0, 0))
    assert setup.ask().status_code == 200


def test_bodies_count_as_they_come(make):
    setup = make(max_held=40_000)
    with setup.connect() as client:
        client.sendall(HEAD.format(18_000).encode() + b'{' * 15_000)
        eventually(lambda: setup.gateway.memory.held == 30_000)
        status, error = setup.error(question('x' * 6_000))
        assert (status, error['code']) == (429, 'overloaded')
        assert setup.ask().status_code == 200
    eventually(lambda: setup.gateway.memory.held == 0)
    assert setup.ask(question('x' * 6_000)).status_code == 200


def test_what_is_held_while_an_answer_is_made(make):
    setup = make(FakeBackend(pause=0.2))
    url = data_url(picture(40, 30).convert('RGBA'))  # which is written anew
    with ThreadPoolExecutor(1) as clients:
        asked = clients.submit(setup.ask, question('?', url))
        eventually(lambda: setup.backend.running == 1)
        held = setup.gateway.memory.held
        sent = json.dumps(question('?', setup.asked_picture))
        assert abs(held - 2 * len(sent)) < 100
        assert asked.result().status_code == 200
    eventually(lambda: setup.gateway.memory.held == 0)


def test_pictures_from_the_web_count(make):
    content = encoded(picture(300, 200), 'PNG')
    app = Starlette(routes=[Route('/a.png', lambda request: Response(content))])
    with running(app) as url, ThreadPoolExecutor(1) as threads:
        loader = PictureLoader(threads, fetcher=Fetcher(1 << 20, 5.0, allowed_hosts=('localhost',)))
        setup = make(pictures=loader, max_held=5 * len(content))
        place = f'http://localhost:{url.rpartition(":")[2]}/a.png'
        assert setup.ask(question('?', place)).status_code == 200
        assert setup.error(question('?', place, place))[1]['code'] == 'overloaded'
        eventually(lambda: setup.gateway.memory.held == 0)


@pytest.mark.parametrize('body', [b'[' + b'{},' * 200 + b'{}]', b'{' + b'"a":1,' * 300 + b'"a":1}'])
def test_json_of_very_many_things(make, monkeypatch, body):
    monkeypatch.setattr(intake, 'MOST_ITEMS', 200)
    setup = make()
    status, error = setup.error(content=body, json=None, headers={'content-type': 'application/json'})
    assert (status, error['code']) == (400, 'invalid_json')
    assert 'commas and brackets' in error['message']
    assert setup.ask(question('{' * 50)).status_code == 200


def test_too_many_pictures(make):
    setup, url = make(max_pictures=2), data_url(picture(40, 30))
    assert setup.ask(question('?', url, url)).status_code == 200
    status, error = setup.error(question('?', url, url, url))
    assert (status, error['message']) == (400, '3 pictures; expected at most 2.')


def test_every_refusal_is_counted(make):
    setup = make(api_keys=('secret',), max_body=1000)
    key = {'Authorization': 'Bearer secret'}
    answers = [
        setup.ask(),
        setup.ask(headers={**key, 'content-type': 'text/plain'}),
        setup.ask(question('x' * 2000), headers=key),
        setup.ask({}, headers=key),
    ]
    assert [answer.status_code for answer in answers] == [401, 415, 413, 400]
    eventually(lambda: setup.gateway.done['refused'] == 4)
    assert setup.gateway.pool.inside == 0
