"""Processes that end with this one, and ports that nobody else can take."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys

import psutil
import pytest

from mmft.errors import ServerError
from mmft.ports import bound_socket, reuse_address
from mmft.serve.backends.child_process import Child
from tests.serve.running import eventually


def test_a_taken_port():
    with bound_socket('127.0.0.1', 0) as taken:
        port = taken.getsockname()[1]
        taken.listen()
        with pytest.raises(ServerError, match=f'port {port}') as error:
            bound_socket('127.0.0.1', port)
    assert '--port' in str(error.value)
    with pytest.raises(ServerError, match=r'192\.0\.2\.1'):
        bound_socket('192.0.2.1', 0)  # of documentation: no machine has it


def test_a_port_is_held_before_anybody_listens():
    """A server that is still loading its model, or one that has only just ended."""
    with bound_socket('127.0.0.1', 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(ServerError, match=f'port {port}'):
            bound_socket('127.0.0.1', port)
        reuse_address(first)
        first.listen()
        with socket.create_connection(('127.0.0.1', port)) as client:
            first.accept()[0].close()  # the side that closes first lingers
            client.recv(1)
    with bound_socket('127.0.0.1', port), pytest.raises(ServerError, match=f'port {port}'):
        bound_socket('127.0.0.1', port)


@pytest.mark.parametrize('port', [70000, -1])
def test_no_such_port(port):
    with pytest.raises(ServerError, match='0 to 65535'):
        bound_socket('127.0.0.1', port)


async def start(code, echo=False):
    child = Child('the backend', [sys.executable, '-u', '-c', code], 'http://127.0.0.1:1', echo=echo)
    await child.start()
    return child


def test_a_backend_that_does_not_start_shows_its_last_lines():
    async def fail():
        child = await start("print('no such option'); print('50%\\r100%'); raise SystemExit(3)")
        with pytest.raises(ServerError, match='ended with status 3 while starting') as error:
            await child.wait_ready(30)
        assert '  | no such option\n  | 50%\n  | 100%' in str(error.value)
        slow = await start('import time; time.sleep(60)')
        with pytest.raises(ServerError, match='--start-timeout'):
            await slow.wait_ready(0.3)
        await slow.stop()
        assert slow.process.returncode == -signal.SIGTERM

    asyncio.run(fail())


def test_modules_in_the_current_directory_are_not_imported(tmp_path, monkeypatch):
    """It is the model's for whoever says ``cd DIR; mmft serve .``: a program of a stranger."""
    for name in ('httpx', 'asyncio', 'json'):
        (tmp_path / f'{name}.py').write_text(f"open({str(tmp_path / 'has-run')!r}, 'w')\n1 / 0\n")
    monkeypatch.chdir(tmp_path)

    async def serve():
        child = Child('the backend', [sys.executable, '-m', 'json.tool', '--help'], 'http://127.0.0.1:1')
        await child.start()
        return await child.wait(), child.last_lines(40)

    status, said = asyncio.run(serve())
    assert (status, 'usage' in said) == (0, True), said
    assert not (tmp_path / 'has-run').exists()


def test_a_process_that_the_system_does_not_start(monkeypatch):
    async def refused(*_, **__):
        raise BlockingIOError(11, 'Resource temporarily unavailable')

    monkeypatch.setattr(asyncio, 'create_subprocess_exec', refused)
    with pytest.raises(ServerError, match='cannot start the process of server 3: Resource temporarily') as caught:
        asyncio.run(Child('server 3', ['true'], 'http://127.0.0.1:1').start())
    assert 'ulimit' in caught.value.fix


def test_a_backend_that_does_not_listen_to_reason_is_killed_with_all_it_started():
    code = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
stubborn = 'import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)'
other = subprocess.Popen([sys.executable, '-c', stubborn])
print(other.pid)
time.sleep(60)
"""

    async def stop():
        child = await start(code)
        while not child.tail:
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.3)
        await child.stop(grace=0.3)
        assert child.process.returncode == -signal.SIGKILL
        return int(child.tail[0])

    other = asyncio.run(stop())
    eventually(lambda: not psutil.pid_exists(other) or psutil.Process(other).status() == 'zombie')


def test_a_backend_ends_with_the_gateway_even_if_that_is_killed():
    code = """
import asyncio, sys, time
from mmft.serve.backends.child_process import Child
async def main():
    child = Child('x', [sys.executable, '-c', 'import time; time.sleep(60)'], 'http://127.0.0.1:1')
    await child.start()
    print(child.process.pid, flush=True)
    await child.wait()
asyncio.run(main())
"""
    gateway = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True)
    backend = psutil.Process(int(gateway.stdout.readline()))
    gateway.kill()
    gateway.wait()
    eventually(lambda: not backend.is_running() or backend.status() == 'zombie')


def test_a_stop_leaves_the_next_start_alone():
    """What the process that was started meanwhile prints is still read."""

    async def scene():
        child = await start("import time; print('first'); time.sleep(60)")
        stopping = asyncio.ensure_future(child.stop(grace=0.2))
        await asyncio.sleep(0)
        await child.start()
        await stopping
        while not child.tail:
            await asyncio.sleep(0.02)
        assert not child._reader.done()
        await child.stop()

    asyncio.run(scene())
