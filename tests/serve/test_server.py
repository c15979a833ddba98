"""One run of the server, without a backend: when it says that it is there, and what becomes of a taken port."""

from __future__ import annotations

import asyncio
import os
import signal
import socket

import pytest

from mmft.errors import ServerError
from mmft.ports import bound_socket, reuse_address
from mmft.serve.backends import launch
from mmft.serve.backends.choose import Choice
from mmft.serve.backends.fleet import Fleet, Member
from mmft.serve.gateway.dialects import TransformersDialect
from mmft.serve.gateway.upstream import Upstream
from mmft.serve.server import _Server
from mmft.serve.settings import ServeSettings
from tests.serve.test_fleet import StandIn


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs a server on a socket; its log goes to a function."""
    member = Member(StandIn('one'), Upstream('http://127.0.0.1:1', TransformersDialect('x'), 1))
    monkeypatch.setattr(launch, 'build_fleet', lambda *_: Fleet([member], None, 5, print))

    def run(listener, log, **settings):
        server = _Server(ServeSettings(tmp_path, **settings), tmp_path, Choice('transformers', ''), {}, listener, log)
        return asyncio.run(server.run())

    yield run
    assert member.child.ended.is_set()  # stopped in any case


def test_it_is_announced_when_it_listens(run):
    lines = []

    def log(line):
        lines.append(line)
        socket.create_connection(listener.getsockname(), timeout=5).close()
        os.kill(os.getpid(), signal.SIGTERM)

    with bound_socket('127.0.0.1', 0) as listener:
        assert run(listener, log) == 0
    assert len(lines) == 1
    assert 'is served at' in lines[0]


def test_a_port_that_another_server_took_meanwhile(run):
    lines = []
    with bound_socket('127.0.0.1', 0) as listener, socket.socket() as other:
        reuse_address(listener)
        reuse_address(other)
        other.bind(listener.getsockname())
        other.listen()
        with pytest.raises(ServerError, match='in use'):
            run(listener, lines.append)
    assert lines == []


@pytest.mark.parametrize(
    ('host', 'keys', 'hosts'),
    [
        ('127.0.0.1', (), {'localhost', '127.0.0.1', '::1'}),
        ('Localhost', (), {'localhost', '127.0.0.1', '::1'}),
        ('127.0.0.1', ('key',), set()),
        ('0.0.0.0', (), set()),
    ],
)
def test_names_that_a_server_answers_to(tmp_path, host, keys, hosts):
    with bound_socket(host, 0) as listener:
        settings = ServeSettings(tmp_path, host=host, api_keys=keys)
        server = _Server(settings, tmp_path, Choice('transformers', ''), {}, listener, print)
        assert set(server._allowed().hosts) == hosts
