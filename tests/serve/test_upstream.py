"""The backends behind the gateway: their errors, their ends, and how questions are shared out."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest

from mmft.serve.gateway import upstream
from mmft.serve.gateway.app import Gateway
from mmft.serve.gateway.pool import Pool
from mmft.serve.gateway.settings import GatewaySettings
from tests.serve.running import FakeBackend, eventually, question, running

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


@pytest.mark.parametrize('stream', [True, False])
@pytest.mark.parametrize('finish', ['abort', 'error', 'parse_error'])
def test_an_answer_that_lmdeploy_breaks_off_is_an_error(make, finish, stream):
    broken = {'choices': [{'index': 0, 'delta': {'content': ''}, 'finish_reason': finish}]}
    setup = make(FakeBackend('lmdeploy', pieces=('some ', json.dumps(broken))))
    if stream:
        with pytest.raises(openai.APIError, match=f'broke the answer off .{finish}'):
            list(setup.client.chat.completions.create(model='food', stream=True, **question()))
    else:
        assert setup.error()[0] == 503
    eventually(lambda: setup.gateway.done['failed'] == 1)


def test_a_backend_that_says_nothing_loses_its_question(make, monkeypatch):
    monkeypatch.setattr(upstream, 'SILENCE', 0.1)
    setup = make(FakeBackend(pause=0.5))
    status, error = setup.error()
    assert (status, error['code'], 'ReadTimeout' in error['message']) == (503, 'backend_gone', True)
    eventually(lambda: setup.upstream.busy == 0)
