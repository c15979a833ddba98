"""Answers on their way to the client: stop words, outer spaces, what they cost."""

from __future__ import annotations

import pytest

from mmft.serve.gateway.app import Gateway
from mmft.serve.gateway.pool import Pool
from mmft.serve.gateway.settings import GatewaySettings
from tests.serve.running import FakeBackend, eventually, question, running


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


@pytest.mark.parametrize('pieces', [('one', ' two ', '###', ' three'), ('one', ' two ', '###', '{"choices": []}')])
def test_the_cost_is_told_also_where_a_stop_word_ends_the_answer(make, pieces):
    setup = make(FakeBackend(pieces=pieces, pause=0.02))
    whole = setup.client.chat.completions.create(stop='###', model='food', **question())
    cost = (whole.usage.prompt_tokens, whole.usage.completion_tokens, whole.usage.total_tokens)
    assert cost == (4, 3, 7)  # words, of all that the backend said
    options = {'model': 'food', 'stream': True, 'stream_options': {'include_usage': True}}
    *chunks, last = setup.client.chat.completions.create(stop='###', **options, **question())
    assert (last.choices, last.usage.total_tokens) == ([], 7)
    assert all('usage' in chunk.model_fields_set and chunk.usage is None for chunk in chunks)
    plain = list(setup.client.chat.completions.create(stop='###', model='food', stream=True, **question()))
    assert not any('usage' in chunk.model_fields_set for chunk in plain)


def test_the_cost_without_a_counter(make):
    setup = make(FakeBackend(pieces=('one', ' two', '#')))
    gateway = Gateway(GatewaySettings(('food',), {}), Pool([setup.upstream]))
    with running(gateway.app) as url:
        answer = setup.http.post(f'{url}/v1/chat/completions', json=question(stop='#')).json()
    assert answer['usage'] == {'prompt_tokens': 0, 'completion_tokens': 3, 'total_tokens': 3}
