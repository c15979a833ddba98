"""The way in: what strangers can make large or slow is bounded, and given back whatever becomes of the request."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from mmft.serve import intake
from mmft.serve.fetch import Fetcher
from mmft.serve.intake import Memory
from mmft.serve.pictures import PictureLoader
from mmft.serve.protocol import ApiError
from tests.export.tiny import picture
from tests.serve.running import HEAD, FakeBackend, data_url, encoded, eventually, question, running


def test_memory_is_given_back_at_the_end():
    memory = Memory(100)
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
    setup = make(most_waiting=1)  # and one slot
    with setup.connect() as one, setup.connect() as two:
        for client in (one, two):
            client.sendall(HEAD.format(1000).encode() + b'{')
        eventually(lambda: setup.gateway.pool.inside == 2)
        assert setup.error()[1]['code'] == 'overloaded'
        assert setup.http.get(f'{setup.url}/health').json()['waiting'] == 2
    eventually(lambda: setup.gateway.pool.inside == 0)
    assert setup.gateway.done['left'] == 2
    assert setup.ask().status_code == 200


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
