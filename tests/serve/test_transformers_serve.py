"""What the table says of ``transformers serve``: one server, asked about an export of every row."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from mmft.ports import free_port
from mmft.talk.remote_answerer import RemoteAnswerer
from tests.serve.running import eventually
from tests.serve.served import CASES, LESSONS

SERVED = [case for case in CASES if not case.row.transformers]
REFUSED = [case for case in CASES if case.row.transformers]


@pytest.fixture(scope='module')
def served(tmp_path_factory):
    """(URL, log) of ``transformers serve``, which loads whatever directory a request names."""
    log, port = tmp_path_factory.mktemp('transformers') / 'log', free_port()
    command = [sys.executable, '-m', 'transformers.cli.transformers', 'serve', '--host', '127.0.0.1',
               '--port', str(port), '--device', 'cpu', '--dtype', 'float32']  # fmt: skip
    environment = {'HF_HUB_OFFLINE': '1', 'HF_HUB_DISABLE_UPDATE_CHECK': '1', 'OMP_NUM_THREADS': '1'}
    with open(log, 'wb') as out:
        server = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, **environment})
    try:
        yield ready(f'http://127.0.0.1:{port}', server, log), log
    finally:
        server.kill()
        server.wait()


def ready(url: str, server: subprocess.Popen, log: Path, seconds: float = 300) -> str:
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        try:
            if httpx.get(f'{url}/health', trust_env=False).status_code == 200:
                return url
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError(f'transformers serve does not answer; it printed:\n{log.read_text(errors="replace")[-3000:]}')


@pytest.mark.parametrize('case', SERVED, ids=lambda case: case.name)
def test_it_answers_as_chat_does(case, made, served):
    model, (url, _) = made(case), served
    with RemoteAnswerer(url, model=str(model.path)) as remote:
        for lesson in LESSONS.values():
            assert remote.answer(lesson.messages[:-1], lesson.images, max_new_tokens=64) == lesson.answers[-1]


FAILS = {
    'transformers has no such class': 'contains custom code which must be executed',
    'only mmft': 'does not recognize this architecture',
}
"""What a reason of the table says -> what transformers says."""


@pytest.mark.parametrize('case', REFUSED, ids=lambda case: case.name)
def test_it_fails_on_what_the_table_refuses(case, made, served):
    """For the reason that the table gives: a missing file, say, would be another. Clients are told none of it."""
    path, (url, log) = made(case).path, served
    before = log.stat().st_size
    request = {'model': str(path), 'messages': [{'role': 'user', 'content': 'Hello'}]}
    answer = httpx.post(f'{url}/v1/chat/completions', json=request, timeout=120, trust_env=False)
    assert answer.status_code >= 400
    (wanted,) = (text for reason, text in FAILS.items() if reason in case.row.transformers)
    # The server writes it after its answer.
    eventually(lambda: re.search(wanted, log.read_bytes()[before:].decode(errors='replace')))
