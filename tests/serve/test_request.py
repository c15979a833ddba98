"""Requests: every field and part is followed, makes no difference, or is refused by name. Nothing is ignored."""

from __future__ import annotations

import itertools
import json
import random

import pytest
import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, RepetitionPenaltyLogitsProcessor

from mmft.serve.gateway.api_error import ApiError
from mmft.serve.gateway.dialects import LMDeployDialect, TransformersDialect
from mmft.serve.gateway.intake.request import parse_request
from tests.export.tiny import picture
from tests.serve.running import ANSWER, data_url, question

PNG = data_url(picture(8, 6))
EXTRA = ('response_format', 'logit_bias')


def parsed(body, **options):
    return parse_request(body, ('food',), EXTRA, **options)


def refused(body, **options) -> ApiError:
    with pytest.raises(ApiError) as error:
        parsed(body, **options)
    assert error.value.status == 400
    assert len(error.value.message) < 2000
    return error.value


def message(content='x', **more):
    return {'messages': [{'role': 'user', 'content': content, **more}]}


# -- pictures that would not be seen


@pytest.mark.parametrize(
    ('body', 'param'),
    [
        (message(images=['aGk=']), 'images'),
        (message(image='aGk='), 'image'),
        (question(images=['aGk=']), 'images'),
        (question(image='a.jpg'), 'image'),
        (question(image_base64='aGk='), 'image_base64'),
        (question(image_data='/etc/passwd'), 'image_data'),
        (question(videos=['a.mp4']), 'videos'),
        (message([{'type': 'text', 'text': 'x', 'image': 'a.jpg'}]), 'image'),
    ],
)
def test_pictures_in_another_place_are_refused_with_the_right_one(body, param):
    error = refused(body)
    assert (error.code, error.param) == ('unknown_parameter', param)
    assert repr(param) in error.message
    assert 'image_url' in error.message


@pytest.mark.parametrize('text', ['<image>', '<image>\nWhat?', 'a <IMG_CONTEXT> b', '<IMAGE_TOKEN>'])
@pytest.mark.parametrize('beside', [(), (PNG,)])
def test_a_typed_placeholder_is_refused(text, beside):
    error = refused(question(text, *beside))
    assert 'stands for a picture' in error.message
    assert error.code == 'invalid_value'


def test_a_placeholder_cut_in_two_is_one():
    halves = [{'type': 'text', 'text': '<ima'}, {'type': 'text', 'text': 'ge> What?'}]
    assert 'stands for a picture' in refused(message(halves)).message
    assert 'stands for a picture' in refused(message([*question('?', PNG)['messages'][0]['content'], *halves])).message


def test_a_placeholder_elsewhere_is_text_as_in_training():
    turns = [
        {'role': 'system', 'content': 'Never write <image>.'},
        {'role': 'user', 'content': 'x'},
        {'role': 'assistant', 'content': '<image> I did.'},
        {'role': 'user', 'content': 'y'},
    ]
    assert parsed({'messages': turns}).messages == turns
    assert (
        'stands for a picture'
        in refused({'messages': [{'role': 'system', 'content': '<IMG_CONTEXT>'}, turns[1]]}).message
    )


@pytest.mark.parametrize(
    'kind', ['image', 'input_image', 'video_url', 'input_audio', 'file', 'refusal', None, 5, ['x']]
)
def test_parts_of_other_kinds(kind):
    error = refused(message([{'type': kind, 'text': 'x', 'video_url': {'url': 'x'}}]))
    assert error.param == 'messages[0].content[0]'
    assert "{'type': 'image_url'" in error.message


@pytest.mark.parametrize(('detail', 'good'), [(None, 1), ('auto', 1), ('high', 1), ('low', 0), ('x' * 9999, 0), (5, 0)])
def test_detail(detail, good):
    body = message([{'type': 'image_url', 'image_url': {'url': PNG, 'detail': detail}}])
    if good:
        assert parsed(body).pictures == [{'url': PNG}]
    else:
        assert 'detail=' in refused(body).message


# -- fields


NOTHING_LOST = {
    'n': 1, 'best_of': 1, 'logprobs': False, 'top_logprobs': 0, 'tools': [], 'tool_choice': 'none', 'functions': None,
    'parallel_tool_calls': True, 'presence_penalty': 0.0, 'frequency_penalty': 0, 'user': 'me', 'metadata': {'a': 'b'},
    'store': True, 'stream_options': {'include_usage': True}, 'service_tier': 'auto', 'verbosity': 'medium',
    'chat_template': None, 'add_generation_prompt': True, 'continue_final_message': False, 'echo': False,
    'images': [], 'something_new': None, 'response_format': {'type': 'text'}, 'logit_bias': {}, 'stop': [],
    'max_tokens': None, 'skip_special_tokens': False,
}  # fmt: skip
LOST = {
    'n': 2, 'best_of': 3, 'logprobs': True, 'top_logprobs': 5, 'tools': [{'type': 'function'}],
    'tool_choice': 'required', 'functions': [{}], 'function_call': {'name': 'f'},
    'presence_penalty': 0.1, 'frequency_penalty': -1,
    'reasoning_effort': 'high', 'verbosity': 'low', 'chat_template': '{{ 1 }}', 'chat_template_kwargs': {'a': 1},
    'add_generation_prompt': False, 'continue_final_message': True, 'echo': True, 'audio': {'voice': 'x'},
    'modalities': ['text', 'audio'], 'prediction': {'type': 'content'}, 'web_search_options': {'a': 1},
    'use_beam_search': True, 'ignore_eos': True, 'min_tokens': 5, 'stop_token_ids': [2],
    'mm_processor_kwargs': {'a': 1}, 'documents': [{}], 'prefix': 'The dish', 'options': {'temperature': 0},
    'extra_body': {'top_k': 1}, 'prompt': 'x',
    'max_new_tokens': 5, 'do_sample': True, 'guided_json': {'a': 1}, 'something_new': 0, 'session_id': 7,
}  # fmt: skip


def test_fields_that_change_nothing_pass():
    assert parsed(question(**NOTHING_LOST)) == parsed(question())
    assert parsed(question(stream=True, stream_options={'include_usage': True})).include_usage


@pytest.mark.parametrize('name', LOST)
def test_fields_that_nobody_follows_are_refused_by_name(name):
    error = refused(question(**{name: LOST[name]}))
    assert error.param == name
    assert name in error.message
    assert error.code in ('unsupported', 'unknown_parameter')


def test_all_unknown_fields_are_named_at_once():
    names = [f'option_{i}' for i in range(12)]
    error = refused(question(**dict.fromkeys(names, 1), **{'x' * 5000: 1, 'temprature': 1}))
    assert all(repr(name) in error.message for name in names[:8])
    assert 'and 6 more' in error.message
    assert "(did you mean 'temperature'?)" in refused(question(temprature=1, top_pp=1)).message


@pytest.mark.parametrize(
    'more', [{'name': 'Eve'}, {'tool_calls': [{'id': 1}]}, {'prefix': True}, {'weight': 0}, {'reasoning_content': 'Hm'}]
)
def test_fields_of_a_message(more):
    error = refused(message(**more))
    assert repr(next(iter(more))) in error.message
    assert 'messages[0]' in error.message
    assert parsed(message(**dict.fromkeys(more))).messages == message()['messages']


@pytest.mark.parametrize('role', ['tool', 'function', 'ipython', 'human', '', None, 5, ['user']])
def test_roles(role):
    error = refused({'messages': [{'role': role, 'content': 'x'}, *question()['messages']]})
    assert error.param == 'messages[0].role'
    assert parsed({'messages': [{'role': 'developer', 'content': 'x'}, *question()['messages']]}).messages[0] == {
        'role': 'system',
        'content': 'x',
    }


# -- numbers


@pytest.mark.parametrize('value', [2, 1, 1.1, 10, 0.01])
@pytest.mark.parametrize('name', ['repetition_penalty', 'temperature', 'top_p', 'min_p'])
def test_numbers_are_of_the_type_that_backends_want(name, value):
    value = min(value, {'temperature': 2, 'top_p': 1, 'min_p': 1}.get(name, 10))
    request = parsed(question(**{'temperature': 1, name: value}))
    for dialect in (TransformersDialect('food'), LMDeployDialect('food')):
        body = dialect.body(request)
        given = {**json.loads(body.get('generation_config', '{}')), **body}[name]
        assert (type(given), given) == (float, value)
    if name == 'repetition_penalty':
        RepetitionPenaltyLogitsProcessor(request.sampling[name])


@pytest.mark.parametrize(
    ('name', 'values'),
    [
        ('repetition_penalty', [0, -1, 0.0, 10.5, True, '1.1', 1e300, [1]]),
        ('temperature', [-0.1, 2.1, 1e-9, True, 'hot', 10**400]),
        ('top_p', [0, -1, 1.1, False]),
        ('min_p', [-1, 2]),
        ('top_k', [-1, 5.0, 1e10, '5']),
        ('seed', [2**63, -(2**63) - 1, 1.5, True]),
        ('max_tokens', [0, -1, 5.0, 1e10, True, '5', 10**400]),
        ('max_completion_tokens', [0, 5.5]),
        ('stop', [5, False, {'a': 1}, [1], ['a'] * 17]),
        ('stream', [1, 'yes', []]),
        ('stream_options', [1, 'x', [1], {'include_usage': 'yes'}]),
        ('logit_bias', [{'abc': 1}, {'-1': 1}, {'1' * 5000: 1}, {'5': True}, {'5': 101}, {'100': 1}, [1], 5, False]),
        ('response_format', ['json', {'type': 'xml'}, {'type': 'json_schema'}, {'json_schema': {}},
                             {'type': 'json_schema', 'json_schema': []},
                             {'type': 'json_schema', 'json_schema': {'name': 'x', 'schema': 'y'}}, 5]),
    ],
)  # fmt: skip
def test_values_out_of_range(name, values):
    for value in values:
        error = refused(question(**{name: value}), vocabulary=100)
        assert error.param.partition('.')[0] == name, value
        assert name in error.message, value


def test_two_lengths_that_differ():
    assert parsed(question(max_tokens=5, max_completion_tokens=5)).max_tokens == 5
    assert (
        'max_completion_tokens=5, but max_tokens=6' in refused(question(max_tokens=6, max_completion_tokens=5)).message
    )


def test_what_a_backend_follows_beside():
    schema = {'type': 'json_schema', 'json_schema': {'name': 'dish', 'schema': {'type': 'object'}}}
    request = parsed(question(response_format=schema, logit_bias={'99': 5}), vocabulary=100)
    assert request.extra == {'response_format': schema, 'logit_bias': {'99': 5.0}}
    with pytest.raises(ApiError, match='not followed by the backend'):
        parse_request(question(logit_bias={'5': 1}), ('food',), ('response_format',))


def test_transformers_takes_the_extremes_that_are_let_pass():
    torch.manual_seed(0)
    sizes = {'hidden_size': 16, 'intermediate_size': 16, 'num_hidden_layers': 1, 'num_attention_heads': 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=100, num_key_value_heads=2, **sizes)).eval()
    model.lm_head.weight.data *= 3000  # scores in the hundreds, as of models that have learnt their answers
    ranges = (1e-6, 2), (1e-300, 1), (0, 10**9), (0, 1), (0.01, 10), (-(2**63), 2**63 - 1)
    for values in itertools.product(*ranges):
        names = ('temperature', 'top_p', 'top_k', 'min_p', 'repetition_penalty', 'seed')
        request = parsed(question(logit_bias={'99': -100}, **dict(zip(names, values, strict=True))), vocabulary=100)
        body = TransformersDialect('food').body(request)
        # As `transformers serve` 5.23 makes it of a request.
        config = GenerationConfig(**json.loads(body['generation_config']), max_new_tokens=2)
        config.temperature, config.top_p = float(body['temperature']), float(body['top_p'])
        config.sequence_bias = {(int(token),): bias for token, bias in body['logit_bias'].items()}
        torch.manual_seed(body['seed'])
        assert model.generate(torch.tensor([[1, 2, 3]]), generation_config=config).shape[1] > 3


# -- anything at all


VALUES = [None, True, False, 0, 1, -1, 2, 0.5, 1e308, 10**30, '', 'x', '<image>', '\ud800', '\x1b[2J', [], [[]],
          {}, {'a': 1}, ['x'], [None], 'x' * 3000, {'url': PNG}, [{'type': 'text', 'text': 'x'}],
          {'type': 'text'}, 'user', 'image_url']  # fmt: skip
FULL = question(
    'What?', PNG, temperature=0.5, top_p=0.9, top_k=5, min_p=0.1, repetition_penalty=1.1, seed=1, stop=['x'], n=1,
    max_tokens=5, stream=False, stream_options={'include_usage': True}, logit_bias={'5': 1}, model='food', user='me',
    response_format={'type': 'text'}, tools=[],
)  # fmt: skip


def places(value, path=()):
    """The path of every value in a JSON object."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*path, key)
        yield from places(item, (*path, key))


def mutated(seed):
    """The full request with one to three things in it exchanged, renamed, removed or doubled."""
    draw, body = random.Random(seed), json.loads(json.dumps(FULL))
    for _ in range(draw.randint(1, 3)):
        *path, key = draw.choice(list(places(body)))
        holder = body
        for step in path:
            holder = holder[step]
        change = draw.choice(['exchange', 'exchange', 'exchange', 'remove', 'double', 'add'])
        if change == 'exchange':
            holder[key] = draw.choice(VALUES)
        elif change == 'remove':
            del holder[key]
        elif isinstance(holder, list):
            holder.insert(0, json.loads(json.dumps(holder[key])) if change == 'double' else draw.choice(VALUES))
        else:
            holder[draw.choice(['images', 'name', 'temprature', '\x1b[2J', 'detail', 'x' * 100])] = draw.choice(VALUES)
        if not body:
            break
    return body


def test_mutated_requests_are_answered_or_refused(shared):
    statuses = []
    for seed in range(300):
        body = json.dumps(mutated(seed)).encode()
        answer = shared.ask(content=body, json=None, headers={'content-type': 'application/json'})
        statuses.append(answer.status_code)
        if answer.status_code == 200:
            assert answer.text.count(ANSWER) or 'data: ' in answer.text
        else:
            assert answer.status_code in (400, 404), (seed, answer.text)
            assert set(answer.json()['error']) == {'message', 'type', 'param', 'code'}
            assert len(answer.json()['error']['message']) < 2000
            assert '\x1b' not in answer.json()['error']['message']
    assert min(statuses.count(200), statuses.count(400)) > 20


def test_mutated_bytes_are_answered_or_refused(shared):
    for seed in range(100):
        draw, body = random.Random(seed), bytearray(json.dumps(FULL).encode())
        for _ in range(draw.randint(1, 8)):
            at = draw.randrange(len(body))
            body[at : at + draw.choice([0, 1, 1, 40])] = draw.choice(
                [b'', b'"', b'[', b'}', b'\xff', b'\x00', b'1e999', b'[' * 99]
            )
        answer = shared.ask(content=bytes(body), json=None, headers={'content-type': 'application/json'})
        assert answer.status_code in (200, 400, 404), (seed, answer.text)


def test_nested_deep(shared):
    for depth in (400, 900, 5000, 100_000):
        for name in ('tools', 'model', 'stop', 'images', 'response_format', 'temperature'):
            body = json.dumps(question()).encode()[:-1] + f', "{name}": {"[" * depth}1{"]" * depth}}}'.encode()
            answer, error = shared.error(content=body, json=None, headers={'content-type': 'application/json'})
            assert answer in (400, 404), error
