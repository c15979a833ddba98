"""The gateway over real HTTP, before a scripted backend: what goes in, what comes out, and every kind of bad input."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.export.tiny import picture
from tests.serve.running import ANSWER, HEAD, FakeBackend, data_url, eventually, question

PNG = data_url(picture(40, 30))


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
    setup.ask(question(temperature=0.5, response_format={'type': 'json_object'}, seed=-1))
    greedy, sampled = setup.backend.asked
    assert (greedy['temperature'], greedy['top_k']) == (1.0, 1)
    assert [part['type'] for part in greedy['messages'][0]['content']] == ['image_url', 'text']
    assert greedy['messages'][0]['content'][1]['text'] == 'Look:\nWhat is it?'
    assert (sampled['temperature'], sampled['seed']) == (0.5, 2**63 - 1)
    assert sampled['response_format'] == {'type': 'json_object'}
    assert 'top_k' not in sampled


WRONG = {
    'no JSON': (b'{', 400, 'not JSON'),
    'a list': ([], 400, 'expected an object'),
    'no messages': ({}, 400, 'messages must be a list'),
    'empty messages': ({'messages': []}, 400, 'at least one message'),
    'a foreign model': (question(model='gpt-4o'), 404, "'gpt-4o' does not exist; this server has 'food'"),
    'a role': ({'messages': [{'role': 'tool', 'content': 'x'}]}, 400, "'tool'"),
    'a list for a role': ({'messages': [{'role': ['user'], 'content': 'x'}]}, 400, "['user']"),
    'an answer at the end': ({'messages': [{'role': 'assistant', 'content': 'x'}]}, 400, 'question of the user'),
    'a number for text': ({'messages': [{'role': 'user', 'content': 3}]}, 400, 'text or a list of parts'),
    'a part of another kind': ({'messages': [{'role': 'user', 'content': [{'type': 'audio'}]}]}, 400, "'audio'"),
    'a picture of the system': (
        {'messages': [{**question('x', PNG)['messages'][0], 'role': 'system'}, *question()['messages']]},
        400, 'only messages of the user',
    ),
    'half a character': ({'messages': [{'role': 'user', 'content': '\ud800'}]}, 400, 'not Unicode'),
    'half a character of a place': (question('x', 'http://example.org/\ud800'), 400, 'not an http(s) address'),
    'several answers': (question(n=2), 400, 'Ask several times'),
    'logprobs': (question(logprobs=True), 400, 'logprobs=true is not supported'),
    'true for one answer': (question(n=True), 400, 'n=true is not supported'),
    'tools': (question(tools=[{'type': 'function'}]), 400, 'tools='),
    'a format': (question(response_format={'type': 'json_object'}), 400, 'response_format'),
    'a typing error': (question(temprature=0.1), 400, "did you mean 'temperature'"),
    'a bias by words': (question(logit_bias={'abc': 1}), 400, 'token ids with numbers'),
    'a bias list': (question(logit_bias=[1]), 400, 'token ids with numbers'),
    'a strong bias': (question(logit_bias={'5': 101}), 400, 'from -100 to 100'),
    'a long name': (question(model='x' * 10_000), 404, f"The model '{'x' * 79}... (10,002 characters) does not"),
    'very many fields': (question(**{f'temperatur{i}': 1 for i in range(64)}), 400, '65 fields; expected at most 64'),
    'hot': (question(temperature=3), 400, 'from 0 to 2'),
    'not a number': (question(temperature='hot'), 400, 'expected a number'),
    'NaN': (b'{"messages": [{"role": "user", "content": "x"}], "top_p": NaN}', 400, 'NaN is not a number'),
    'infinity': (b'{"messages": [{"role": "user", "content": "x"}], "top_p": 1e999}', 400, 'top_p=Infinity'),
    'a key twice': (b'{"messages": [{"role": "user", "content": "x"}], "seed": 1, "seed": 2}', 400, 'stands twice'),
    'another server\'s fields': (question(session_id=5, image_data='/etc/passwd'), 400, 'session_id=5 is not'),
    'no tokens': (question(max_tokens=0), 400, 'max_tokens=0'),
    'true for a number': (question(max_completion_tokens=True), 400, 'whole number'),
    'a flag': (question(stream='yes'), 400, "stream='yes'"),
    'stop': (question(stop=[1]), 400, 'stop must be'),
    'a stop as long as a book': (question(stop='x' * 1_000_000), 400, 'at most 16 strings, of up to 200 characters'),
    'one of many': (question(stop=['x', 'x' * 201]), 400, 'of up to 200 characters'),
    'a schema as long as a book': (
        question(response_format={'type': 'json_schema', 'json_schema': {'name': 'x', 'schema': {'x': 'x' * 70_000}}}),
        400,
        'expected at most 65,536',
    ),
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


@pytest.mark.parametrize('key', ['', ' '])
def test_an_empty_key_lets_nobody_in(make, key):
    setup = make(api_keys=(key,))
    for header in ('Bearer', 'bearer', ''):
        assert setup.ask(headers={'Authorization': header}).status_code == 401


def test_without_the_key_nothing_is_told_of_the_model(make):
    setup = make(api_keys=('secret',))
    assert setup.http.get(setup.url).status_code == 401
    assert setup.http.get(setup.url, headers={'Authorization': 'Bearer secret'}).json()['backend'] == 'transformers'
    assert 'backend' not in setup.http.get(f'{setup.url}/health').json()


def test_a_web_page_whose_name_leads_here_is_refused(make):
    setup = make(hosts=('localhost', '127.0.0.1', '::1'))
    for host in ('localhost', 'LOCALHOST:8000', '127.0.0.1:1', '[::1]:8000', '[::1]'):
        assert setup.ask(headers={'host': host}).status_code == 200, host
    for host in ('evil.example', 'evil.example:8000', 'localhost.evil.example', '[::2]', ''):
        answer = setup.ask(headers={'host': host})
        assert (answer.status_code, answer.json()['error']['code']) == (403, 'wrong_host'), host
        assert setup.http.get(f'{setup.url}/v1/models', headers={'host': host}).status_code == 403


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
    with setup.connect() as client:
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
    with setup.connect() as client:
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


def test_slow_clients_do_not_hold_the_others_up(make):
    """A body that never comes takes no slot."""
    setup = make()
    with setup.connect() as client:
        client.sendall(HEAD.format(1000).encode() + b'{')
        time.sleep(0.05)
        assert setup.ask().status_code == 200
    assert threading.active_count() < 50
