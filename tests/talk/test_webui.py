"""The page's server over HTTP, as a browser speaks to it: through gradio's own client, and bare."""

from __future__ import annotations

import argparse
import base64
import io
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest
from gradio_client import Client, handle_file
from PIL import Image

from mmft.errors import ConfigError, ServerError
from mmft.ports import free_port
from mmft.talk import webui
from mmft.talk.examples import Examples
from mmft.talk.open_answerer import open_answerer
from mmft.talk.webui import WebUI
from tests.serve.running import eventually
from tests.talk.fakes import FakeServer, Said, save_picture, save_records

ROOT = Path(__file__).parent.parent.parent
RED, BLUE = (250, 0, 0), (0, 0, 250)


def colour(messages, images) -> str:
    """What a model would see: which of the two colours each picture has."""
    return ' '.join('red' if Image.open(image).getpixel((2, 2))[0] > 128 else 'blue' for image in images) or 'nothing'


class Failing(Said):
    """A server that goes away, and comes back."""

    away = True

    def _pieces(self, messages, images, settings, stop):
        if self.away:
            raise ServerError('http://127.0.0.1:9 does not answer', fix='start it')
        yield from super()._pieces(messages, images, settings, stop)


class Endless(Said):
    """Goes on until it is stopped."""

    def _pieces(self, messages, images, settings, stop):
        self.begun, self.ended = threading.Event(), threading.Event()
        try:
            while True:
                yield 'on '
                self.begun.set()
                threading.Event().wait(0.02)
        finally:
            self.ended.set()


@pytest.fixture(scope='module')
def models():
    """By name; both are on the page."""
    return {'sees': Said(colour, 'sees'), 'fails': Failing(colour, 'fails')}


@pytest.fixture(scope='module')
def url(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp('set')
    save_records(folder / 'set.jsonl', [(f'{n}.png', f'Which? {n}', f'dish {n}') for n in range(3)])
    ui = WebUI(list(models.values()), examples=Examples(folder / 'set.jsonl'), settings={'max_new_tokens': 64})
    yield ui.start(port=free_port())
    ui.close()


@pytest.fixture
def client(url, models):
    models['fails'].away = False
    return Client(url, verbose=False)


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp('pictures')
    return [save_picture(folder / 'red.png', RED), save_picture(folder / 'blue.jpg', BLUE)]


def ask(client: Client, text: str, *files, **more) -> tuple[list[str], str]:
    """The last message of each chat, and the line below."""
    *chats, line, _ = client.predict({'text': text, 'files': list(map(handle_file, files))}, api_name='/ask', **more)
    return [last(chat) for chat in chats], line


def last(chat) -> str:
    """The text of a chat's last message; nothing for a chat that was left as it is."""
    return chat[-1]['content'][0]['text'] if isinstance(chat, list) and chat else ''


def test_both_answer(client, models, pictures):
    assert ask(client, 'Which colour?', pictures[0])[0] == ['red', 'red']
    assert ask(client, 'And these?', *pictures)[0] == ['red red blue'] * 2
    answers, line = ask(client, 'Again?')
    assert answers == ['red red blue'] * 2
    assert 'sees' in line
    assert 'the same answer' in line
    messages, images, settings = models['sees'].asked[-1]
    assert [turn['role'] for turn in messages] == ['user', 'assistant'] * 2 + ['user']
    assert [Path(image).name for image in images] == ['red.png', 'red.png', 'blue.jpg']
    assert settings == {'max_new_tokens': 64, 'temperature': 0.0, 'top_p': 1.0, 'seed': None}


def test_conversations_of_two_people_are_apart(url, models, pictures):
    first, second = (Client(url, verbose=False) for _ in range(2))
    assert ask(first, 'One', pictures[0])[0][0] == 'red'
    assert ask(second, 'Two', pictures[1])[0][0] == 'blue'
    assert ask(first, 'Still?')[0][0] == 'red'


def test_sampling_reaches_the_models(client, models):
    ask(client, 'Which?', param_3=7, param_4=0.5, param_5=0.9, param_6='11')
    assert models['sees'].asked[-1][2] == {'max_new_tokens': 7, 'temperature': 0.5, 'top_p': 0.9, 'seed': 11}
    assert 'the seed' in ask(client, 'Which?', param_6='x')[1]
    ask(client, 'On its own?', param_7=True)
    assert len(models['sees'].asked[-1][0]) == 1


def test_one_model_fails_the_other_goes_on_and_again_asks_both(client, models, pictures):
    models['fails'].away = True
    answers, line = ask(client, 'Which?', pictures[1])
    assert answers[0] == 'blue'
    assert 'does not answer' in answers[1]
    assert 'start it' in answers[1]
    assert 'failed' in line
    models['fails'].away = False
    *chats, line, _ = client.predict(api_name='/again')
    assert [last(chat) for chat in chats] == ['blue', 'blue']
    assert len(chats[0]) == 2


def test_what_is_no_picture_is_said_and_nothing_is_asked(client, models, tmp_path):
    (tmp_path / 'note.jpg').write_text('this is no picture')
    before = len(models['sees'].asked)
    answers, line = ask(client, 'What is it?', tmp_path / 'note.jpg')
    assert answers == ['', '']
    assert 'note.jpg: not a picture' in line
    assert 'empty question' in ask(client, '  ')[1]
    assert '2 &lt;image&gt; in the questions' in ask(client, '<image> or <image>?')[1]
    assert len(models['sees'].asked) == before
    (tmp_path / 'note.txt').write_text('this is no picture')
    with pytest.raises(Exception, match='Invalid file type'):
        ask(client, 'What is it?', tmp_path / 'note.txt')


def test_the_page_is_saved(client, pictures):
    file, line = client.predict(api_name='/save')
    assert 'nothing has been asked' in line
    ask(client, '这是什么颜色？', *pictures)
    file, _ = client.predict(api_name='/save')
    text = Path(file).read_text(encoding='utf-8')
    assert Path(file).name.startswith('comparison-')
    assert '这是什么颜色？' in text
    shown = [Image.open(io.BytesIO(base64.b64decode(data))) for data in re.findall(r'base64,([^"]+)"', text)]
    assert [image.getpixel((2, 2))[0] > 128 for image in shown] == [True, False]
    assert text.count('red blue') == 2
    client.predict(api_name='/forget')
    assert 'nothing has been asked' in client.predict(api_name='/save')[1]


def test_answers_stream_until_they_are_stopped_or_left(tmp_path):
    model = Endless('', 'endless')
    ui = WebUI([model])
    client = Client(ui.start(port=free_port()), verbose=False)
    try:
        job = client.submit({'text': 'Go', 'files': []}, api_name='/ask')
        while not hasattr(model, 'begun'):
            threading.Event().wait(0.01)
        assert model.begun.wait(20)
        while len(job.outputs()) < 5:
            threading.Event().wait(0.01)
        client.predict(api_name='/stop')
        chat, line, _ = job.result(20)
        assert last(chat).startswith('on on')
        assert 'stopped' in line
        texts = [last(chat) for chat, *_ in job.outputs()]
        assert len(set(texts)) >= 4
        assert sorted(map(len, texts[1:-1])) == list(map(len, texts[1:-1]))
        assert model.ended.wait(20)
        job = client.submit({'text': 'Go', 'files': []}, api_name='/ask')
        while model.ended.is_set():
            threading.Event().wait(0.01)
        assert model.begun.wait(20)
        job.cancel()
        assert model.ended.wait(20)
    finally:
        ui.close()


# What a stranger may not.


def test_only_uploads_are_read(client, url, tmp_path):
    secret = save_picture(tmp_path / 'secret.png')
    for path in (str(secret), '/etc/passwd'):
        box = {'text': 'What?', 'files': [{'path': path, 'meta': {'_type': 'gradio.FileData'}}]}
        body = {'data': [box, None, None, 64, 0, 1, '', False], 'session_hash': 'stranger'}
        with httpx.Client(base_url=url, trust_env=False) as web:
            config = web.get('/config').json()
            number = next(entry['id'] for entry in config['dependencies'] if entry['api_name'] == 'ask')
            web.post('/gradio_api/queue/join', json={**body, 'fn_index': number}).raise_for_status()
            told = web.get('/gradio_api/queue/data', params={'session_hash': 'stranger'}, timeout=30).text
            assert '"success":false' in told
            assert web.get(f'/gradio_api/file={path}').status_code in (403, 404)


def test_a_foreign_host_name_is_refused(url):
    with httpx.Client(trust_env=False) as web:
        assert web.get(url).status_code == 200
        assert web.get(url, headers={'Host': 'evil.example'}).status_code == 400
        answer = web.get(url, headers={'Origin': 'http://evil.example'})
        assert 'access-control-allow-origin' not in answer.headers


def test_browsers_are_told_to_fetch_no_media_from_elsewhere(url, client, pictures):
    ask(client, 'Which?', pictures[0])
    with httpx.Client(base_url=url, trust_env=False) as web:
        for path in ('/', '/config', '/gradio_api/info', '/none'):
            (policy,) = web.get(path).headers.get_list('content-security-policy')
            assert "img-src 'self' data: blob:;" in policy


def test_people_beyond_what_waits_are_told(monkeypatch):
    monkeypatch.setattr(webui, '_MOST_AT_A_TIME', 1)
    monkeypatch.setattr(webui, '_MOST_WAITING', 1)
    model = Endless('', 'endless')
    ui = WebUI([model])
    url = ui.start(port=free_port())
    try:
        first, second, third = (Client(url, verbose=False) for _ in range(3))
        question = {'text': 'Go', 'files': []}
        answered = first.submit(question, api_name='/ask')
        eventually(lambda: answered.outputs())
        waits = second.submit(question, api_name='/ask')
        eventually(lambda: waits.status().code.name == 'IN_QUEUE')
        with pytest.raises(Exception, match=r'[Qq]ueue is full'):
            third.predict(question, api_name='/ask')
        waits.cancel()
        answered.cancel()
        assert model.ended.wait(20)
    finally:
        ui.close()


def test_passwords(models):
    ui = WebUI(list(models.values()))
    url = ui.start(port=free_port(), auth=[('ann', 'secret')])
    try:
        with httpx.Client(base_url=url, trust_env=False) as web:
            assert web.get('/config').status_code == 401
            assert web.post('/gradio_api/upload', files={'files': b'x'}).status_code == 401
            assert web.post('/login', data={'username': 'ann', 'password': 'wrong'}).status_code == 400
            web.post('/login', data={'username': 'ann', 'password': 'secret'}).raise_for_status()
            assert web.get('/config').status_code == 200
        assert ask(Client(url, auth=('ann', 'secret'), verbose=False), 'Hello?')[0][0] == 'nothing'
    finally:
        ui.close()


def test_nothing_is_shared(url):
    with httpx.Client(base_url=url, trust_env=False) as web:
        config = web.get('/config').json()
    assert not config['analytics_enabled']
    assert config['footer_links'] == []
    assert not any(button == 'share' for part in config['components'] for button in part['props'].get('buttons') or ())


# The command.


def test_the_command_serves_until_it_is_ended(tmp_path):
    picture = save_picture(tmp_path / 'pictures' / 'red.png', RED)
    with FakeServer(lambda request: ['from the ', 'server']) as first, FakeServer() as second:
        command = [sys.executable, 'tools/webui.py', first.url, second.url, '--names', 'before', 'after']
        command += ['--port', '0', '--examples', str(picture.parent)]
        # A proxy that leads nowhere, as a shell may have one that leads only outwards.
        proxies = dict.fromkeys(('http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY'), 'http://127.0.0.1:9')
        (tmp_path / 'temporary').mkdir()
        own = {**os.environ, **proxies, 'no_proxy': '', 'NO_PROXY': '', 'TMPDIR': str(tmp_path / 'temporary')}
        with subprocess.Popen(command, cwd=ROOT, env=own, stdout=subprocess.PIPE, text=True) as process:
            try:
                line = process.stdout.readline()
                url = re.search(r'before and after: (http://127\.0\.0\.1:\d+/)', line)[1]
                assert ask(Client(url, verbose=False), 'What?', picture)[0] == ['from the server', 'a dish']
                process.send_signal(signal.SIGTERM)
                assert process.wait(30) == 0
            finally:
                process.kill()
        assert not list((tmp_path / 'temporary').glob('mmft-webui-*'))
        assert first.requests[0]['messages'][0]['content'][0]['type'] == 'image_url'


def test_the_command_says_what_is_wrong(capsys, tmp_path):
    from mmft.cli.main import main

    def error(*arguments: str) -> str:
        assert main(['webui', *arguments]) == 1
        return capsys.readouterr().err

    assert 'one or two' in error()
    assert 'one or two' in error('a', 'b', 'c')
    assert '--config x without a checkpoint' in error('a', '--config', 'x')
    assert 'one for each model' in error('a', '--names', 'x', 'y')
    assert '--models' in error('a', 'b', '--models', 'x')
    assert 'USER:PASSWORD' in error('a', '--auth', 'nobody')
    assert 'IPv4' in error('a', '--host', '::1')
    assert 'is not a directory' in error(str(tmp_path / 'none'), '--port', '0')
    assert 'does not answer' in error(f'http://127.0.0.1:{free_port()}', '--port', '0')
    with FakeServer() as server:
        taken = server.url.rsplit(':', 1)[1]
        assert 'cannot listen' in error(server.url, '--port', taken)
        assert not server.requests


def test_names_and_settings():
    from mmft.cli.webui import _names

    one = argparse.Namespace(targets=['a/hf', 'b/hf'])
    assert _names(one, [Said('', 'hf'), Said('', 'hf')]) == ['a/hf', 'b/hf']
    assert _names(one, [Said('', 'x'), Said('', 'y')]) is None
    with pytest.raises(ConfigError, match='top_p=0'):
        WebUI([Said('x')], settings={'top_p': 0.0})
    with pytest.raises(ConfigError, match='one for each'):
        WebUI([Said('x')], names=['a', 'b'])
    with FakeServer() as server, open_answerer(server.url) as first, open_answerer(server.url) as second:
        host = server.url.removeprefix('http://')
        assert WebUI([first, second]).names == [f'model @ {host} (1)', f'model @ {host} (2)']
