"""``tools/serve.py`` as a user runs it: a process, asked through openai-python, ``transformers serve`` behind it."""

from __future__ import annotations

import base64
import contextlib
import io
import json
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
import torch

from mmft.cli.main import main
from mmft.export import convert
from mmft.ports import bound_socket
from tests.export.tiny import make_encoder, model_config, picture, random_model
from tests.serve.running import data_url, eventually, question
from tests.serve.served import LESSONS, teach

ROOT = Path(__file__).parents[2]


class Server:
    """A running ``tools/serve.py``."""

    def __init__(self, *arguments: str | Path, log: Path, env=None) -> None:
        command = [sys.executable, 'tools/serve.py', *map(str, arguments), '--port', '0', '--device', 'cpu']
        self.log = log
        with open(log, 'wb') as stream:
            self.process = subprocess.Popen(
                command, cwd=ROOT, stdout=stream, stderr=stream, env={**os.environ, **(env or {})}
            )
        self.url = ''

    def ready(self) -> Server:
        def answers() -> bool:
            printed = self.log.read_text(errors='replace')
            assert self.process.poll() is None, printed
            found = re.search(r'is served at (http://[\d.]+:\d+)', printed)
            self.url = found[1] if found else ''
            return bool(found) and httpx.get(f'{self.url}/health').status_code == 200

        with contextlib.suppress(httpx.HTTPError):
            eventually(answers, 240)
        eventually(lambda: httpx.get(f'{self.url}/health').status_code == 200)
        return self

    def client(self, key: str = 'none') -> openai.OpenAI:
        return openai.OpenAI(base_url=f'{self.url}/v1', api_key=key, max_retries=0, timeout=120)

    @property
    def backends(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def health(self) -> dict:
        return httpx.get(f'{self.url}/health').json()

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """A training that has taught its model a few answers, with its export."""
    root = tmp_path_factory.mktemp('made')
    encoder, config = make_encoder(), model_config(hidden_size=128, tie_word_embeddings=False)
    model = random_model(config)
    teach(model, encoder)
    tune = {part: {'type': 'full'} for part in ('vision', 'projector', 'llm')}
    state = {name: parameter.detach() for name, parameter in model.named_parameters()}
    meta = {'mmft_version': '0', 'config': f'model = {config!r}', 'base': None, 'tune': tune}
    torch.save({'state_dict': state, 'encoder': encoder.to_dict(), 'meta': meta}, root / 'iter_1.pth')
    cfg = {'model': config, 'tune': tune, 'dtype': 'float32'}
    (root / 'config.py').write_text('\n'.join(f'{name} = {value!r}' for name, value in cfg.items()))
    convert(cfg, root / 'iter_1.pth', root / 'food', check='none')
    return root


@pytest.fixture(scope='module')
def server(made):
    """Straight from the training, by two backends."""
    (made / 'pictures').mkdir()
    LESSONS['red'].images[0].save(made / 'pictures' / 'red.png')
    training = ['--config', made / 'config.py', '--checkpoint', made / 'iter_1.pth', '--model-name', 'food']
    options = ['--replicas', '2', '--image-root', made / 'pictures']
    running = Server(*training, *options, log=made / 'server.log', env={'MMFT_API_KEY': 'secret'}).ready()
    yield running
    backends = running.backends
    assert len(backends) == 2
    assert running.stop() == 0
    assert not any(backend.is_running() for backend in backends)
    printed = running.log.read_text()
    assert 'Traceback' not in printed, printed


def body_of(name):
    """The messages of a lesson as clients send them."""
    lesson = LESSONS[name]
    answers = [{'role': 'assistant', 'content': answer} for answer in lesson.answers[:-1]]
    pairs = zip(lesson.questions, lesson.pictures, strict=True)
    turns = [question(text, *map(data_url, images))['messages'] for text, images in pairs]
    messages = [message for turn, answer in zip(turns, answers, strict=False) for message in (*turn, answer)]
    return {'messages': messages + turns[-1], 'model': 'food', 'max_tokens': 24}


def ask(server, name='red', **more):
    answer = server.client('secret').chat.completions.create(**{**body_of(name), **more})
    return answer.choices[0].message.content


@pytest.mark.parametrize('name', LESSONS)
def test_answers_are_the_model_s_own(server, name):
    assert ask(server, name) == LESSONS[name].answers[-1]
    stream = server.client('secret').chat.completions.create(
        stream=True, stream_options={'include_usage': True}, **body_of(name)
    )
    chunks = list(stream)
    assert ''.join(chunk.choices[0].delta.content or '' for chunk in chunks[:-1]) == LESSONS[name].answers[-1]
    assert chunks[-2].choices[0].finish_reason == 'stop'


def test_what_it_says_of_itself(server, made):
    [card] = server.client('secret').models.list()
    assert (card.id, card.max_model_len) == ('food', 512)
    printed = server.log.read_text()
    assert 'backend: transformers serve, since there is no CUDA device' in printed
    assert httpx.get(f'{server.url}/v1/models').status_code == 401
    path = {'type': 'image_url', 'image_url': {'url': 'red.png'}}
    text = {'type': 'text', 'text': LESSONS['red'].questions[0]}
    assert ask(server, messages=[{'role': 'user', 'content': [path, text]}]) == LESSONS['red'].answers[0]


def test_the_prompt_is_counted_as_the_backend_counts_it(server, made):
    from mmft.serve.gateway.intake.prompt_count import ProcessorCounter

    [directory] = (made / 'exports').glob('iter_1-*')
    counter = ProcessorCounter(directory)
    for images in ([], [picture(56, 56)], [picture(300, 60)], [picture(60, 200), picture(500, 310)]):
        body = question('这是什么菜？', *map(data_url, images))
        count = counter.count(body['messages'], [image.size for image in images], None)
        answer = server.client('secret').chat.completions.create(model='food', max_tokens=1, **body)
        assert answer.usage.prompt_tokens == count


def test_a_seed_gives_the_same_answer_again(server):
    sampled = [ask(server, temperature=2, seed=seed, extra_body={'top_k': 0}) for seed in (1, 1, 2, 3)]
    assert sampled[0] == sampled[1]
    assert len(set(sampled)) > 1


def test_thirty_two_at_a_time_get_the_answers_to_their_own_pictures(server):
    names = [*LESSONS] * 10
    with ThreadPoolExecutor(32) as clients:
        given = list(clients.map(lambda name: ask(server, name), names))
    assert given == [LESSONS[name].answers[-1] for name in names]


def bad(server, body, status, words, key='secret'):
    answer = httpx.post(f'{server.url}/v1/chat/completions', json=body, headers={'Authorization': f'Bearer {key}'},
                        timeout=120)  # fmt: skip
    assert answer.status_code == status
    assert words in answer.json()['error']['message']


def test_bad_requests_and_the_server_goes_on(server):
    text, red = 'What is it?', data_url(LESSONS['red'].images[0])
    broken = base64.b64encode(b'no picture').decode()
    bad(server, question(text, f'data:image/png;base64,{broken}'), 400, 'not a picture')
    bad(server, question(text, 'http://127.0.0.1:9/a.png'), 400, 'a private address')
    bad(server, question(text, '/etc/hostname'), 400, 'outside the folder')
    bad(server, question('很' * 3000), 400, 'the session has 512')
    bad(server, question(text, *[data_url(picture(500, 310))] * 24), 400, 'the session has 512')
    bad(server, question('<IMG_CONTEXT> and <video>', red), 400, 'stands for a picture')
    bad(server, question(text), 401, 'Wrong api key', key='wrong')
    assert ask(server) == LESSONS['red'].answers[0]
    # More than fits: as much as fits.
    answer = server.client('secret').chat.completions.create(model='food', max_tokens=5000, **question('很' * 100))
    assert answer.usage.total_tokens <= 512


# Too wild to end by itself, and of bytes that make no characters.
ENDLESS = {'temperature': 2, 'max_tokens': 400, 'extra_body': {'top_k': 0, 'repetition_penalty': 2.0}}


def test_answers_of_any_bytes_do_not_fail(server):
    for seed in range(3):
        assert ask(server, **{**ENDLESS, 'max_tokens': 60}, seed=seed)


def test_a_client_that_leaves_in_mid_answer(server):
    stream = server.client('secret').chat.completions.create(**{**body_of('red'), **ENDLESS}, stream=True)
    next(iter(stream))
    stream.close()
    eventually(lambda: server.health()['running'] == 0)
    # Without streaming: a client that has no patience, unless the machine is so fast that it needs none.
    with contextlib.suppress(openai.APITimeoutError):
        server.client('secret').with_options(timeout=0.1).chat.completions.create(**{**body_of('red'), **ENDLESS})
    eventually(lambda: server.health()['running'] == 0)
    assert ask(server) == LESSONS['red'].answers[0]


def test_a_backend_that_dies_is_started_anew(server):
    server.backends[0].kill()
    eventually(lambda: server.health()['backends'] == '1 of 2')
    assert ask(server) == LESSONS['red'].answers[0]
    eventually(lambda: server.health()['backends'] == '2 of 2', 240)
    with ThreadPoolExecutor(2) as clients:
        assert list(clients.map(lambda name: ask(server, name), LESSONS)) == [x.answers[-1] for x in LESSONS.values()]
    assert 'ended with status -9' in server.log.read_text()


def run(*arguments: str | Path) -> tuple[int, str]:
    """``mmft serve`` in this process, as far as it gets."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        status = main(['serve', *map(str, arguments)])
    return status, out.getvalue()


def test_a_port_in_use_is_known_before_anything_is_loaded(made):
    with bound_socket('127.0.0.1', 0) as taken:
        taken.listen()
        status, printed = run(made / 'food', '--port', taken.getsockname()[1])
    assert status == 1
    assert 'cannot listen on 127.0.0.1' in printed
    assert 'backend' not in printed


def test_directories_that_cannot_be_served(made, tmp_path):
    (tmp_path / 'empty').mkdir()
    foreign = tmp_path / 'foreign'
    foreign.mkdir()
    (foreign / 'config.json').write_text(json.dumps({'architectures': ['BertModel']}))
    adapter = tmp_path / 'adapter'
    adapter.mkdir()
    (adapter / 'adapter_config.json').write_text('{}')
    for path, words in {
        tmp_path / 'none': 'there is no directory',
        tmp_path / 'empty': 'no config.json',
        foreign: 'BertModel',
        adapter: 'base_model_name_or_path is None',
        made / 'config.py': 'name a checkpoint',
    }.items():
        status, printed = run(path, '--port', 0)
        assert (status, words in printed) == (1, True), printed
        assert 'to do:' in printed
    status, printed = run(made / 'food', '--port', 0, '--backend', 'turbomind', '--device', 'cpu')
    assert (status, 'no CUDA device' in printed) == (1, True)
    assert run('--port', 0)[0] == 1
