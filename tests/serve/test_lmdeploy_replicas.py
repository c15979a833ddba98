"""``mmft serve --replicas 2`` with LMDeploy: two api_servers, its proxy, the gateway, asked through openai-python."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import psutil
import pytest

from mmft.data.prompt import to_parts
from mmft.talk.remote_answerer import data_url
from tests.serve.served import CASES, LESSONS, Lesson

CASE = next(case for case in CASES if (case.llm, case.tower) == ('Llama', 'CLIP'))
KEY = 'a-key'


@pytest.fixture(scope='module')
def server(made):
    command = [sys.executable, '-m', 'tests.serve.mmft_on_cpu', 'serve', str(made(CASE).path), '--port', '0',
               '--replicas', '2', '--max-batch-size', '4', '--api-key', KEY, '--verbose']  # fmt: skip
    # Backends do not look for modules in the current directory; the stand-in for LMDeploy lies in the tests.
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(Path(__file__).parents[2])}
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    said = []
    try:
        for line in running.stdout:
            said.append(line)
            if found := re.search(r'served at (http://\S+)', line):
                running.url, running.said = found[1], said
                break
        else:
            pytest.fail(''.join(said))
        with ThreadPoolExecutor(1) as reader:
            reader.submit(lambda: [said.append(line) for line in running.stdout])
            yield running
            running.kill()
    finally:
        running.kill()
        running.wait()


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=server.url, api_key=KEY, http_client=httpx.Client(trust_env=False)) as client:
        yield client


def ask(client: openai.OpenAI, lesson: Lesson, **more):
    return client.chat.completions.create(
        model=CASE.name, messages=to_parts(lesson.messages[:-1], map(data_url, lesson.images)), max_tokens=64, **more
    )


def test_the_engine_is_the_one_of_the_table(server):
    [line] = [line for line in server.said if line.startswith('backend: ')]
    assert 'PyTorch' in line
    assert 'TurboMind has no LLaVA' in line


def test_answers_whole_and_in_pieces(client):
    for lesson in LESSONS.values():
        whole = ask(client, lesson)
        assert whole.choices[0].message.content.strip() == lesson.answers[-1]
        assert whole.choices[0].finish_reason == 'stop'
        pieces = [event.choices[0].delta.content or '' for event in ask(client, lesson, stream=True) if event.choices]
        assert ''.join(pieces).strip() == lesson.answers[-1]
        assert len([piece for piece in pieces if piece]) > 2


def test_many_at_once_get_their_own_pictures(client):
    lessons = list(LESSONS.values()) * 4
    with ThreadPoolExecutor(16) as pool:
        answers = pool.map(lambda lesson: ask(client, lesson).choices[0].message.content.strip(), lessons)
    assert list(answers) == [lesson.answers[-1] for lesson in lessons]


def test_another_key_is_refused(server):
    with (
        openai.OpenAI(base_url=server.url, api_key='other', http_client=httpx.Client(trust_env=False)) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        ask(client, LESSONS['text'])


def test_it_stops_with_all_it_started(server):
    family = psutil.Process(server.pid).children(recursive=True)
    assert len(family) >= 3
    server.send_signal(signal.SIGTERM)
    assert server.wait(30) == 0
    assert psutil.wait_procs(family, timeout=10)[1] == []
