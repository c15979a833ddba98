"""The gateway over real HTTP, before a scripted backend: what goes in, what comes out, and every kind of bad input."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from mmft.errors import DataError
from mmft.serve.dialects import LMDeployDialect, TransformersDialect
from mmft.serve.fetch import Fetcher, is_public
from mmft.serve.gateway import Gateway, GatewaySettings
from mmft.serve.pictures import PictureLoader
from mmft.serve.protocol import ApiError
from mmft.serve.upstream import Pool, Upstream
from tests.export.tiny import picture
from tests.serve.running import FakeBackend, data_url, eventually, question, running

ANSWER = 'steamed rice rolls'
PNG = data_url(picture(40, 30))
HEAD = 'POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n'


class Counter:
    """As ``PromptCounter``, a token a word and ten a picture."""

    def count(self, messages, sizes, limit):
        words = sum(len(m['content'].split()) for m in messages if isinstance(m['content'], str)) + 10 * len(sizes)
        if words >= limit:
            raise ApiError(400, f'This conversation has {words} tokens; the session has {limit}.',
                           'context_length_exceeded', 'messages')  # fmt: skip
        return words


class Setup:
    """A scripted backend with a gateway in front."""

    def __init__(self, stack, backend=None, slots=1, most_waiting=64, pictures=None, **settings):
        self.backend = backend or FakeBackend()
        dialect = TransformersDialect('/models/food') if self.backend.kind == 'transformers' else (
            LMDeployDialect('food-1', pictures_first=True))  # fmt: skip
        self.upstream = Upstream(stack.enter_context(running(self.backend.app)), dialect, slots)
        settings = {'session_len': 100, **settings}
        self.gateway = Gateway(
            GatewaySettings(('food', 'exported/food'), {'backend': self.backend.kind}, **settings),
            Pool([self.upstream], most_waiting), Counter(), pictures,
        )  # fmt: skip
        self.url = stack.enter_context(running(self.gateway.app))
        self.http = stack.enter_context(httpx.Client(timeout=20))

    def ask(self, body=None, **more) -> httpx.Response:
        content = {'json': body if body is not None else question()}
        return self.http.post(f'{self.url}/v1/chat/completions', **{**content, **more})

    def error(self, body=None, **more) -> tuple[int, dict]:
        answer = self.ask(body, **more)
        assert set(answer.json()) == {'error'}
        assert set(answer.json()['error']) == {'message', 'type', 'param', 'code'}
        return answer.status_code, answer.json()['error']

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f'{self.url}/v1', api_key='none', max_retries=0)


@pytest.fixture
def make(request):
    import contextlib

    with contextlib.ExitStack() as stack:
        yield lambda *args, **kwargs: Setup(stack, *args, **kwargs)


@pytest.fixture(scope='module')
def shared():
    """One for all tests that leave it as it was."""
    import contextlib

    with contextlib.ExitStack() as stack:
        yield Setup(stack)


@pytest.mark.parametrize('kind', ['transformers', 'lmdeploy'])
def test_openai_python_gets_answers_whole_and_streamed(make, kind):
    setup = make(FakeBackend(kind))
    messages = question('What is it?', PNG)['messages']
    whole = setup.client.chat.completions.create(model='food', messages=messages, max_tokens=9)
    assert whole.choices[0].message.content == ANSWER
    assert (whole.choices[0].finish_reason, whole.usage.prompt_tokens, whole.usage.total_tokens) == ('stop', 7, 10)
    stream = setup.client.chat.completions.create(
        model='exported/food', messages=messages, stream=True, stream_options={'include_usage': True}
    )
    chunks = list(stream)
    assert ''.join(chunk.choices[0].delta.content or '' for chunk in chunks[:-1]) == ANSWER
    assert chunks[-2].choices[0].finish_reason == 'stop'
    assert (chunks[-1].choices, chunks[-1].usage.total_tokens) == ([], 10)
    assert [model.id for model in setup.client.models.list()] == ['food']
    first, second = setup.backend.asked
    assert first['messages'][0]['content'][0]['image_url']['url'] == PNG
    assert first['stream'] is True  # so that it can be stopped
    assert first['model'] == ('/models/food' if kind == 'transformers' else 'food-1')
    assert first['max_completion_tokens'] == 9
    assert second['max_completion_tokens'] == 100 - 10  # what the session has left


def test_transformers_samples_only_when_its_generation_config_says_so(make):
    setup = make()
    setup.ask(question(temperature=0.7, top_p=0.9, top_k=5, seed=3, repetition_penalty=1.1))
    setup.ask(question(temperature=0, top_p=0.9, top_k=5))
    setup.ask(question())
    sampled, greedy, plain = setup.backend.asked
    assert json.loads(sampled['generation_config']) == {'do_sample': True, 'top_k': 5, 'repetition_penalty': 1.1}
    assert (sampled['temperature'], sampled['top_p'], sampled['seed']) == (0.7, 0.9, 3)
    assert json.loads(greedy['generation_config']) == {'do_sample': False}
    assert not {'temperature', 'top_p', 'top_k', 'generation_config'} & (
        set(plain) | set(greedy) - {'generation_config'}
    )


def test_lmdeploy_is_greedy_unless_asked_and_keeps_every_text_of_llava(make):
    setup = make(FakeBackend('lmdeploy'))
    parts = [
        {'type': 'text', 'text': 'Look:\n'},
        {'type': 'image_url', 'image_url': {'url': PNG}},
        {'type': 'text', 'text': '\nWhat is it?'},
    ]
    setup.ask({'messages': [{'role': 'user', 'content': parts}]})
    more = {'response_format': {'type': 'json_object'}, 'session_id': 5, 'image_data': '/etc/passwd', 'seed': -1}
    setup.ask(question(temperature=0.5, **more))
    greedy, sampled = setup.backend.asked
    assert (greedy['temperature'], greedy['top_k']) == (1.0, 1)
    assert [part['type'] for part in greedy['messages'][0]['content']] == ['image_url', 'text']
    assert greedy['messages'][0]['content'][1]['text'] == 'Look:\nWhat is it?'
    assert (sampled['temperature'], sampled['seed']) == (0.5, 2**63 - 1)
    assert sampled['response_format'] == {'type': 'json_object'}
    assert not {'session_id', 'image_data', 'top_k'} & set(sampled)


def test_stop_words_end_the_answer(make):
    setup = make(FakeBackend(pieces=('one #', '#', '# two', ' three'), pause=0.05))
    whole = setup.ask(question(stop=['###'])).json()['choices'][0]
    assert (whole['message']['content'], whole['finish_reason']) == ('one', 'stop')
    chunks = setup.client.chat.completions.create(stop=['###', 'x'], model='food', stream=True, **question())
    assert ''.join(chunk.choices[0].delta.content or '' for chunk in chunks if chunk.choices) == 'one'
    eventually(lambda: setup.backend.left == 2)  # it does not go on for nothing
    assert setup.ask(question(stop='four')).json()['choices'][0]['message']['content'] == 'one ### two three'


def test_outer_spaces_are_left_out_as_chat_does(make):
    setup = make(FakeBackend(pieces=(' ', '\n rice', '  ', 'rolls', '\n', ' ')))
    assert setup.ask().json()['choices'][0]['message']['content'] == 'rice  rolls'
    chunks = setup.client.chat.completions.create(model='food', stream=True, **question())
    assert ''.join(chunk.choices[0].delta.content or '' for chunk in chunks) == 'rice  rolls'


def test_text_with_line_separators_comes_through(make):
    text = 'a\u2028b\x85c\u2029d 肠粉 🍜'
    setup = make(FakeBackend(pieces=(text,)))
    assert setup.ask().json()['choices'][0]['message']['content'] == text
    chunks = setup.client.chat.completions.create(model='food', stream=True, **question())
    assert ''.join(chunk.choices[0].delta.content or '' for chunk in chunks) == text


WRONG = {
    'no JSON': (b'{', 400, 'not JSON'),
    'a list': ([], 400, 'expected an object'),
    'no messages': ({}, 400, 'messages must be a list'),
    'empty messages': ({'messages': []}, 400, 'at least one message'),
    'a foreign model': (question(model='gpt-4o'), 404, "'gpt-4o' does not exist; this server has 'food'"),
    'a role': ({'messages': [{'role': 'tool', 'content': 'x'}]}, 400, "'tool'"),
    'an answer at the end': ({'messages': [{'role': 'assistant', 'content': 'x'}]}, 400, 'question of the user'),
    'a number for text': ({'messages': [{'role': 'user', 'content': 3}]}, 400, 'text or a list of parts'),
    'a part of another kind': ({'messages': [{'role': 'user', 'content': [{'type': 'audio'}]}]}, 400, "'audio'"),
    'a picture of the system': (
        {'messages': [{**question('x', PNG)['messages'][0], 'role': 'system'}, *question()['messages']]},
        400, 'only messages of the user',
    ),
    'half a character': ({'messages': [{'role': 'user', 'content': '\ud800'}]}, 400, 'not Unicode'),
    'several answers': (question(n=2), 400, 'Ask several times'),
    'logprobs': (question(logprobs=True), 400, 'logprobs=true is not supported'),
    'tools': (question(tools=[{'type': 'function'}]), 400, 'tools='),
    'a format': (question(response_format={'type': 'json_object'}), 400, 'response_format'),
    'a typing error': (question(temprature=0.1), 400, "did you mean 'temperature'"),
    'hot': (question(temperature=3), 400, 'from 0 to 2'),
    'not a number': (question(temperature='hot'), 400, 'expected a number'),
    'NaN': (b'{"messages": [{"role": "user", "content": "x"}], "top_p": NaN}', 400, 'top_p=NaN'),
    'no tokens': (question(max_tokens=0), 400, 'max_tokens=0'),
    'true for a number': (question(max_completion_tokens=True), 400, 'whole number'),
    'a flag': (question(stream='yes'), 400, "stream='yes'"),
    'stop': (question(stop=[1]), 400, 'stop must be'),
}  # fmt: skip


@pytest.mark.parametrize('name', WRONG)
def test_wrong_requests_are_told_what_is_wrong(shared, name):
    body, status, words = WRONG[name]
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer, error = shared.error(content=body, json=None, headers={'content-type': 'application/json'})
    assert answer == status
    assert words in error['message']
    assert shared.ask().json()['choices'][0]['message']['content'] == ANSWER


def test_wrong_ways_and_types(shared):
    assert shared.error(headers={'content-type': 'text/plain'})[0] == 415
    answer = httpx.get(f'{shared.url}/v1/chat/completions')
    assert (answer.status_code, 'POST /v1/chat/completions' in answer.text) == (405, True)
    answer = httpx.post(f'{shared.url}/v1/completions', json={})
    assert (answer.status_code, 'There are POST /v1/chat/completions' in answer.json()['error']['message']) == (
        404,
        True,
    )
    assert httpx.get(f'{shared.url}/v1/models/other').status_code == 404
    assert httpx.get(f'{shared.url}/v1/models/exported/food').json()['max_model_len'] == 100


def test_too_large(make):
    setup = make(max_body=10_000)
    assert setup.error(question('x ' * 9_000))[0] == 413
    assert setup.ask().status_code == 200


# -- the key


@pytest.mark.parametrize(
    'header', ['', 'Bearer wrong', 'Bearer', 'Basic secret', 'Bearer secret2', 'secret', 'Bearer sécret']
)
def test_a_wrong_key_is_refused(make, header):
    setup = make(api_keys=('secret', 'other'))
    status, error = setup.error(headers=[('Authorization', header.encode())])
    assert (status, error['code'], setup.backend.asked) == (401, 'invalid_api_key', [])
    assert httpx.get(f'{setup.url}/v1/models').status_code == 401
    assert httpx.get(f'{setup.url}/health').status_code == 200
    for key in ('secret', 'other'):
        assert setup.ask(headers={'Authorization': f'Bearer {key}'}).status_code == 200


# -- pictures


def encoded(image, kind, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


WHOLE = encoded(picture(80, 60), 'JPEG')
NO_PICTURES = {
    'text': ('data:image/png;base64,' + base64.b64encode(b'hello').decode(), 'not a picture'),
    'nothing': ('data:image/png;base64,', 'an empty file'),
    'broken off': ('data:image/jpeg;base64,' + base64.b64encode(WHOLE[: len(WHOLE) - 200]).decode(), 'breaks off'),
    'no base64': ('data:image/png;base64,@@@', 'broken base64'),
    'another encoding': ('data:image/svg+xml,<svg/>', 'not a base64 data URL'),
    'a bomb': (data_url(Image.new('1', (10_000, 10_000))), '89,478,485 pixels'),
    'a path': ('/etc/hostname', 'reads no files'),
    'a file URL': ('file:///etc/hostname', 'reads no files'),
    'another scheme': ('ftp://example.org/a.png', 'reads no files'),
    'an empty host': ('http:///a.png', 'not an http(s) address'),
    'a wrong port': ('http://example.org:99999/a.png', 'not an http(s) address'),
    'loopback': ('http://127.0.0.1:1/a.png', 'a private address'),
    'loopback by name': ('http://localhost/a.png', 'a private address'),
    'loopback in other words': ('http://2130706433/a.png', 'a private address'),
    'loopback of IPv6': ('http://[::1]/a.png', 'a private address'),
    'a private network': ('http://192.168.1.1/a.png', 'a private address'),
    "the cloud's own": ('http://169.254.169.254/latest/meta-data', 'a private address'),
    'inside IPv6': ('https://[::ffff:10.0.0.1]/a.png', 'a private address'),
}


@pytest.mark.filterwarnings('ignore:.*decompression bomb')
@pytest.mark.parametrize('name', NO_PICTURES)
def test_what_is_no_picture_is_refused(shared, name):
    url, words = NO_PICTURES[name]
    before = len(shared.backend.asked)
    status, error = shared.error(question('What is it?', PNG, url))
    assert (status, error['code']) == (400, 'invalid_image')
    assert words in error['message']
    assert error['message'].startswith('Picture 2 of 2: ')
    assert len(shared.backend.asked) == before
    assert shared.ask(question('What is it?', PNG)).status_code == 200


def sent(setup: Setup, url: str) -> Image.Image:
    """The picture that the backend got for a URL."""
    assert setup.ask(question('What is it?', url)).status_code == 200
    got = setup.backend.asked[-1]['messages'][0]['content'][0]['image_url']['url']
    head, _, data = got.partition(',')
    assert head in ('data:image/png;base64', 'data:image/jpeg;base64', 'data:image/webp;base64')
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_pictures_arrive_as_training_reads_them(shared):
    tall = Image.Exif()
    tall[0x0112] = 6
    turned = sent(shared, data_url(picture(80, 60), 'JPEG', exif=tall))
    assert (turned.size, turned.mode, turned.getexif().get(0x0112)) == ((60, 80), 'RGB', None)
    assert sent(shared, data_url(picture().convert('RGBA'))).mode == 'RGB'
    assert sent(shared, data_url(picture().convert('CMYK'), 'JPEG')).format == 'PNG'
    assert sent(shared, data_url(picture().convert('P'), 'GIF')).mode == 'RGB'
    plain = data_url(picture(), 'JPEG')
    sent(shared, plain)
    assert shared.backend.asked[-1]['messages'][0]['content'][0]['image_url']['url'] == plain  # not written again
    wrapped = plain[:30] + '\n' + plain[30:].replace('JPEG', 'jpeg')
    assert sent(shared, wrapped.replace('data:image/jpeg', 'DATA:application/octet-stream')).format == 'JPEG'


def test_files_of_the_allowed_folder_only(make, tmp_path):
    folder = tmp_path / 'pictures'
    (folder / 'sub').mkdir(parents=True)
    picture(40, 30).save(folder / 'sub' / 'a b.png')
    picture(40, 30).save(tmp_path / 'secret.png')
    (folder / 'link.png').symlink_to(tmp_path / 'secret.png')
    setup = make(image_root=str(folder))
    for url in ('sub/a b.png', f'{folder}/sub/a b.png', f'file://{folder}/sub/a%20b.png'):
        assert sent(setup, url).size == (40, 30)
    for url in (
        '../secret.png',
        str(tmp_path / 'secret.png'),
        'link.png',
        '/etc/passwd',
        f'file://{folder}/../secret.png',
    ):
        status, error = setup.error(question('?', url))
        assert (status, 'outside the folder' in error['message']) == (400, True), url
    for url in ('sub/none.png', 'sub', 'sub/\x00.png', 'a' * 5000):
        assert setup.error(question('?', url))[0] == 400


def web(loader_hosts=('localhost',)):
    """A picture server, and redirects."""
    content = encoded(picture(40, 30), 'PNG')

    def redirect(request):
        return RedirectResponse(request.query_params['to'])

    def endless(request):
        return RedirectResponse('/endless')

    routes = [
        Route('/a.png', lambda request: Response(content, media_type='image/png')),
        Route('/large.png', lambda request: Response(content + bytes(1 << 20))),
        Route('/to', redirect),
        Route('/endless', endless),
    ]
    return Starlette(routes=routes)


def test_pictures_from_the_web_and_where_redirects_may_not_lead(make):
    with running(web()) as url, ThreadPoolExecutor(1) as threads:
        port = url.rpartition(':')[2]
        # The test's own server is on loopback: by the name that is allowed, not by its address.
        host = f'http://localhost:{port}'
        setup = make(pictures=PictureLoader(threads, fetcher=Fetcher(500_000, 5.0, allowed_hosts=('localhost',))))
        assert sent(setup, f'{host}/a.png').size == (40, 30)
        assert sent(setup, f'{host}/to?to=/a.png').size == (40, 30)
        refused = {
            f'{host}/to?to={url}/a.png': 'a private address',
            f'{host}/to?to=http://169.254.169.254/': 'a private address',
            f'{host}/to?to=file:///etc/passwd': 'not an http(s) address',
            f'{host}/endless': 'redirects',
            f'{host}/none.png': 'status 404',
            f'{host}/large.png': 'more than 500,000 bytes',
            'http://name.invalid/a.png': 'no such host',
            'http://localhost:1/a.png': 'localhost:1/a.png: ',
        }
        for place, words in refused.items():
            status, error = setup.error(question('?', place))
            assert (status, error['code']) == (400, 'invalid_image')
            assert words in error['message'], place


def test_the_address_that_was_checked_is_the_one_connected_to():
    """A name that leads to a public address when it is looked up, and to loopback a moment later."""
    fetcher, looked_up, connected = Fetcher(1000, 5.0), [], []

    async def rebinding(host, port, **_):
        looked_up.append(host)
        address = '93.184.215.14' if len(looked_up) == 1 else '127.0.0.1'
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, '', (address, port))]

    class Recorder:
        async def connect_tcp(self, host, port, *_, **__):
            connected.append((host, port))
            raise OSError('not really')

    async def fetch():
        asyncio.get_running_loop().getaddrinfo = rebinding
        fetcher._pool._network_backend._inner = Recorder()
        with pytest.raises(DataError, match='not really'):
            await fetcher.fetch('http://evil.example/a.png')
        with pytest.raises(DataError, match='a private address'):
            await fetcher.fetch('http://evil.example/a.png')

    asyncio.run(fetch())
    assert (looked_up, connected) == (['evil.example'] * 2, [('93.184.215.14', 80)])


def test_addresses():
    public = ('8.8.8.8', '1.1.1.1', '2606:4700::1111')
    private = ('10.1.2.3', '172.16.0.1', '100.64.0.1', '0.0.0.0', '224.0.0.1', '255.255.255.255', '::', 'fe80::1%eth0',
               'fc00::1', '2002:7f00:1::', '::ffff:127.0.0.1', '64:ff9b::a9fe:a9fe', '192.0.2.1')  # fmt: skip
    assert [address for address in public if not is_public(address)] == []
    assert [address for address in private if is_public(address)] == []


def test_a_picture_that_takes_too_long(make):
    silent = socket.create_server(('127.0.0.1', 0))
    with silent, ThreadPoolExecutor(1) as threads:
        setup = make(pictures=PictureLoader(threads, fetcher=Fetcher(1000, 0.2, allowed_hosts=('localhost',))))
        status, error = setup.error(question('?', f'http://localhost:{silent.getsockname()[1]}/a.png'))
        assert (status, 'no picture within 0.2 s' in error['message']) == (400, True)


# -- the session, the queue, clients that leave, backends that fail


def test_over_the_session_length(shared):
    status, error = shared.error(question('word ' * 100))
    assert (status, error['code']) == (400, 'context_length_exceeded')
    assert '100 tokens' in error['message']
    assert shared.ask(question('word ' * 99)).status_code == 200
    assert shared.backend.asked[-1]['max_completion_tokens'] == 1
    shared.ask(question('word', max_tokens=5000))
    assert shared.backend.asked[-1]['max_completion_tokens'] == 99


def test_many_at_once_are_asked_one_after_the_other(make):
    setup = make(FakeBackend(pause=0.005))
    with ThreadPoolExecutor(32) as clients:
        answers = list(clients.map(lambda i: setup.ask(question(f'question {i}')), range(64)))
    assert {answer.json()['choices'][0]['message']['content'] for answer in answers} == {ANSWER}
    assert (setup.backend.most, len(setup.backend.asked)) == (1, 64)
    assert httpx.get(f'{setup.url}/health').json()['answered'] == 64


def test_random_answers_are_made_one_at_a_time(make):
    """transformers draws from one generator: a seed would be another answer's beside it."""
    setup = make(FakeBackend(pause=0.02), slots=2)
    with ThreadPoolExecutor(16) as clients:
        asked = [clients.submit(setup.ask, question(temperature=1.0, seed=i)) for i in range(4)]
        assert all(answer.result().status_code == 200 for answer in asked)
        assert setup.backend.most == 1
        setup.backend.pause = 0.2
        asked = [clients.submit(setup.ask, question(temperature=i // 4)) for i in range(5)]
        assert all(answer.result().status_code == 200 for answer in asked)
    assert setup.backend.most == 2
    eventually(lambda: (setup.upstream.busy, setup.gateway.pool.running) == (0, 0))


def test_a_full_queue_says_so(make):
    setup = make(FakeBackend(pause=0.3), most_waiting=2)
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda _: setup.ask(), range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] * 3 + [429] * 5
    full = next(answer for answer in answers if answer.status_code == 429)
    assert (full.json()['error']['code'], full.headers['retry-after']) == ('overloaded', '5')
    assert setup.ask().status_code == 200


@pytest.mark.parametrize('stream', [True, False])
def test_a_client_that_leaves_stops_the_backend(make, stream):
    setup = make(FakeBackend(pieces=('word ',) * 2000, pause=0.01))
    body = json.dumps(question(stream=stream)).encode()
    head = HEAD.format(len(body))
    host, port = setup.url.removeprefix('http://').split(':')
    with socket.create_connection((host, int(port))) as client:
        client.sendall(head.encode() + body)
        eventually(lambda: setup.backend.running == 1)
        if stream:
            while b'word' not in client.recv(4096):
                pass
    eventually(lambda: setup.backend.running == 0)
    eventually(lambda: setup.gateway.done['left'] == 1)
    setup.backend.pieces = ('next',)
    assert setup.ask().json()['choices'][0]['message']['content'] == 'next'


def test_a_client_that_does_not_read_loses_its_place(make):
    setup = make(FakeBackend(pieces=('word ' * 100_000,) * 50), patience=0.3)
    body = json.dumps(question(stream=True)).encode()
    host, port = setup.url.removeprefix('http://').split(':')
    with socket.create_connection((host, int(port))) as client:
        client.sendall(HEAD.format(len(body)).encode() + body)
        eventually(lambda: setup.gateway.done['left'] == 1)
        eventually(lambda: setup.backend.running == 0)
        setup.backend.pieces = ('next',)
        assert setup.ask().json()['choices'][0]['message']['content'] == 'next'


def test_a_client_that_leaves_the_queue_is_never_asked_for(make):
    setup = make(FakeBackend(pause=0.2))
    with ThreadPoolExecutor(1) as clients:
        first = clients.submit(setup.ask)
        eventually(lambda: setup.backend.running == 1)
        with pytest.raises(httpx.ReadTimeout):
            setup.ask(question('the impatient one'), timeout=0.1)
        assert first.result().status_code == 200
    assert setup.ask(question('the next')).status_code == 200
    assert [body['messages'][0]['content'] for body in setup.backend.asked] == ['What dish is it?', 'the next']
    assert setup.gateway.pool.waiting == 0


REFUSALS = {
    'bare text': ((500, 'Internal Server Error'), 500, 'Internal Server Error'),
    'of FastAPI': ((422, {'detail': 'Unexpected fields'}), 422, 'Unexpected fields'),
    'of LMDeploy': ((400, {'object': 'error', 'message': 'too long', 'code': 400}), 400, 'too long'),
    "of LMDeploy's proxy": ((200, {'object': 'error', 'message': 'too long', 'code': 400}), 400, 'too long'),
    'a dead server': ((200, {'error_code': 10402, 'text': 'Failed to get response'}), 500, 'Failed to get response'),
}


@pytest.mark.parametrize('stream', [True, False])
@pytest.mark.parametrize('name', REFUSALS)
def test_errors_of_backends_keep_their_sense(make, name, stream):
    refusal, status, words = REFUSALS[name]
    setup = make(FakeBackend(refusal=refusal))
    answer, error = setup.error(question(stream=stream))
    assert (answer, words in error['message']) == (status, True)
    setup.backend.refusal = None
    assert setup.ask().status_code == 200


@pytest.mark.parametrize('event', ['{"error": "it said "no""}', '{"error": {"message": "out of memory", "code": 500}}'])
def test_an_error_in_mid_stream(make, event):
    setup = make(FakeBackend(pieces=('some ', event)))
    assert setup.error()[0] == 500
    with pytest.raises(openai.APIError, match='The backend failed'):
        list(setup.client.chat.completions.create(model='food', stream=True, **question()))
    setup.backend.pieces = ('fine',)
    assert setup.ask().json()['choices'][0]['message']['content'] == 'fine'


def test_an_answer_that_transformers_cannot_stream_is_asked_for_whole(make):
    """Its decoder gives up on bytes that make no character."""
    event = """{"error": "Invalid prefix encountered while decoding stream. Token ID: 281, Expected prefix: '|'"}"""
    setup = make(FakeBackend(pieces=('some |', event), whole='some |\ufffd\ufffd f'))
    body = question(temperature=1.0)
    assert setup.ask(body).json()['choices'][0]['message']['content'] == 'some |\ufffd\ufffd f'
    chunks = list(setup.client.chat.completions.create(model='food', stream=True, **body))
    assert ''.join(chunk.choices[0].delta.content or '' for chunk in chunks) == 'some |\ufffd\ufffd f'
    first, second, *_ = setup.backend.asked
    assert first['seed'] == second['seed']  # the same answer, not another one
    setup.backend.whole = 'other beginning'
    assert setup.ask().json()['choices'][0]['message']['content'] == 'other beginning'


def test_a_backend_that_is_gone(make):
    setup = make()
    setup.upstream.alive = False
    status, error = setup.error()
    assert (status, error['code'], httpx.get(f'{setup.url}/health').status_code) == (503, 'backend_gone', 503)
    setup.upstream.alive = True
    url, setup.upstream.client.base_url = setup.upstream.client.base_url, 'http://127.0.0.1:1'
    assert setup.error()[0] == 503
    setup.upstream.client.base_url = url
    assert setup.ask().status_code == 200


def test_several_backends_share_the_questions(make):
    one, two = make(FakeBackend(pause=0.05)), make(FakeBackend(pause=0.05))
    pool = Pool([one.upstream, two.upstream])
    gateway = Gateway(GatewaySettings(('food',), {}), pool)
    with running(gateway.app) as url, ThreadPoolExecutor(8) as clients:
        ask = lambda _: one.http.post(f'{url}/v1/chat/completions', json=question())  # noqa: E731
        assert {answer.status_code for answer in clients.map(ask, range(8))} == {200}
        shares = [len(setup.backend.asked) for setup in (one, two)]
        assert (sum(shares), min(shares) > 1, one.backend.most, two.backend.most) == (8, True, 1, 1)
        two.upstream.alive = False
        assert {answer.status_code for answer in clients.map(ask, range(2))} == {200}
        assert [len(setup.backend.asked) for setup in (one, two)] == [shares[0] + 2, shares[1]]


def test_slow_clients_do_not_hold_the_others_up(make):
    """A body that never comes takes no slot."""
    setup = make()
    host, port = setup.url.removeprefix('http://').split(':')
    with socket.create_connection((host, int(port))) as client:
        client.sendall(HEAD.format(1000).encode() + b'{')
        time.sleep(0.05)
        assert setup.ask().status_code == 200
    assert threading.active_count() < 50
