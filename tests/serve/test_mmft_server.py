"""mmft as its own backend, over live sockets: a model with a part of one's own, which no other backend can serve."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

import httpx
import openai
import pytest

import mmft
from mmft.cli.main import main
from mmft.export import convert
from mmft.export.cache import cached_export
from mmft.serve.backends.choose import mmft_command
from mmft.serve.backends.mmft_server import MmftServer
from mmft.serve.gateway.dialects import MmftDialect
from mmft.serve.gateway.intake.prompt_count import EncoderCounter, ProcessorCounter
from mmft.serve.gateway.intake.request import ChatRequest
from mmft.talk.local_answerer import LocalAnswerer
from mmft.user_code import allow_code
from tests.export.tiny import make_base, make_checkpoint, make_encoder, model_config, picture
from tests.export.tiny_llava import ONEVISION, ONEVISION_PARTS, llava_config, llava_encoder
from tests.serve.running import data_url, eventually, question, running
from tests.serve.test_serve import Server

CODE = """
from mmft.models.projectors.linear import Linear
from mmft.registry import PROJECTORS

@PROJECTORS.register_module()
class ServedLinear(Linear):
    pass
"""
FULL = dict.fromkeys(('vision', 'projector', 'llm'), 'full')
ENDLESS = {'max_tokens': 400, 'temperature': 2, 'extra_body': {'repetition_penalty': 2.0}}


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """(directory, model, encoder) with a projector of a module of one's own, ``served_parts``."""
    root = tmp_path_factory.mktemp('own')
    (root / 'code').mkdir()
    (root / 'code' / 'served_parts.py').write_text(CODE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(root / 'code')
        allow_code(['served_parts'])
        encoder, config = make_encoder('Qwen2'), model_config('Qwen2')
        config['projector'] = {'type': 'ServedLinear', 'in_dim': config['vision']['hidden_size']}
        encoder.tokens_per_tile = 16
        cfg = {'model': config, 'tune': FULL, 'dtype': 'float32'}
        path, _ = make_checkpoint(root / 'iter_1.pth', cfg, encoder)
        convert(cfg, path, root / 'own', 'native', check='none')
        yield root / 'own', *mmft.load(root / 'own')


@pytest.fixture(scope='module')
def server(made):
    directory, *_ = made
    options = ['--allow-code', 'served_parts', '--cache', directory.parent / 'cache']
    env = {'PYTHONPATH': f'{directory.parent / "code"}:{Path(__file__).parents[2]}'}
    running = Server(directory, *options, log=directory.parent / 'server.log', env=env).ready()
    yield running
    [backend] = running.backends
    assert running.stop() == 0
    assert not backend.is_running()
    assert 'Traceback' not in running.log.read_text()


def ask(server, body, **more):
    return server.client().chat.completions.create(**{'model': 'own', 'max_tokens': 12, **body, **more})


def test_it_is_chosen_where_no_other_backend_can_hold_the_model(server):
    printed = server.log.read_text()
    assert 'backend: mmft itself, since no layout of the others holds this model' in printed
    about = httpx.get(f'{server.url}/').json()
    assert about['backend'] == 'mmft'
    assert about['session_len'] == 512


def test_answers_are_those_of_chat_whole_and_in_pieces(server, made):
    _, model, encoder = made
    images = [picture(60, 60), picture(90, 40)]
    for count in (0, 1, 2):
        want = model.chat(encoder, 'What is it?', images[:count], max_new_tokens=12)
        body = question('What is it?', *map(data_url, images[:count]))
        whole = ask(server, body)
        assert whole.choices[0].message.content == want
        assert whole.usage.prompt_tokens == len(encoder.prompt('What is it?', images[:count]))
        chunks = list(ask(server, body, stream=True, stream_options={'include_usage': True}))
        pieces = [choice.delta.content for chunk in chunks for choice in chunk.choices if choice.delta.content]
        assert ''.join(pieces) == want
        assert len(pieces) > 2
        assert chunks[-1].usage == whole.usage


def test_the_turns_before_are_part_of_the_question(server, made):
    _, model, encoder = made
    red = picture(60, 60)
    history = [{'role': 'user', 'content': '<image>\nOne?'}, {'role': 'assistant', 'content': 'A'}]
    want = model.chat(encoder, 'Two?', [red], history, max_new_tokens=12)
    turns = [*question('One?', data_url(red))['messages'], history[1], *question('Two?')['messages']]
    assert ask(server, {'messages': turns}).choices[0].message.content == want


def test_fields_are_followed_as_by_the_others(server, made):
    _, _, encoder = made
    body = question('Hello')
    cut = ask(server, body, max_tokens=2)
    assert (cut.choices[0].finish_reason, cut.usage.completion_tokens) == ('length', 2)
    greedy = ask(server, body).choices[0].message.content
    assert ask(server, body, temperature=1.5, extra_body={'top_k': 1}).choices[0].message.content == greedy
    wild = [ask(server, body, temperature=1.5, seed=seed).choices[0].message.content for seed in (1, 1, 2)]
    assert wild[0] == wild[1] != wild[2]
    token = encoder.tokenizer.convert_tokens_to_ids('x')
    biased = ask(server, body, logit_bias={str(token): 100}, max_tokens=3)
    assert biased.choices[0].message.content == 'xxx'
    stop = greedy[len(greedy) // 2 :][:2]
    assert ask(server, body, stop=[stop]).choices[0].message.content == greedy[: greedy.index(stop)].rstrip()


@pytest.mark.parametrize(
    ('body', 'words'),
    [({**question('Hi'), 'response_format': {'type': 'json_object'}}, 'response_format is not followed'),
     ({**question('Hi'), 'n': 2}, 'n=2 is not supported'),
     (question('x ' * 900), 'the session has 512'),
     (question('Hi', '/etc/hostname'), 'reads no files'),
     ({'messages': [{'role': 'user', 'content': 'a'}, {'role': 'user', 'content': 'b'}]}, 'take turns')],
)  # fmt: skip
def test_what_is_refused(server, body, words):
    answer = httpx.post(f'{server.url}/v1/chat/completions', json=body, timeout=60)
    assert (answer.status_code, words in answer.json()['error']['message']) == (400, True), answer.text


def test_a_client_that_leaves_stops_the_model(server):
    stream = ask(server, question('Hello'), **ENDLESS, stream=True)
    next(iter(stream))
    stream.close()
    eventually(lambda: server.health()['running'] == 0)
    with contextlib.suppress(openai.APITimeoutError):
        server.client().with_options(timeout=0.1).chat.completions.create(model='own', **question('Hello'), **ENDLESS)
    eventually(lambda: server.health()['running'] == 0)
    assert ask(server, question('Hello')).choices[0].finish_reason in ('stop', 'length')


def test_the_model_itself_stops_when_its_client_goes(made, monkeypatch):
    answerer = LocalAnswerer(made[0])
    steps, forward = [], answerer.model.llm.lm.forward
    monkeypatch.setattr(answerer.model.llm.lm, 'forward', lambda *a, **k: steps.append(1) or forward(*a, **k))
    body = {**question('Hello'), 'max_tokens': 400, 'temperature': 2, 'seed': 0, 'stream': True}
    with running(MmftServer(answerer).app) as url:
        with httpx.stream('POST', f'{url}/v1/chat/completions', json=body, timeout=60) as answer:
            next(answer.iter_lines())
        eventually(lambda: not answerer._busy.locked())
        assert 0 < len(steps) < 300
        refused = httpx.post(f'{url}/v1/chat/completions', json=question('Hi', 'file:///etc/hostname'), timeout=60)
        assert (refused.status_code, 'no data URL' in refused.text) == (400, True)
        assert httpx.post(f'{url}/v1/chat/completions', content=b'{', timeout=60).status_code == 400


def test_code_that_was_not_allowed_is_named(made, capsys, monkeypatch):
    monkeypatch.setattr('mmft.user_code.USER_CODE.modules', {})
    assert main(['serve', str(made[0]), '--port', '0', '--backend', 'mmft']) == 1
    assert '--allow-code served_parts' in capsys.readouterr().err


def test_another_backend_that_is_asked_for_is_not_replaced(made, tmp_path, capsys):
    words = ['serve', str(made[0]), '--port', '0', '--backend', 'transformers', '--cache', str(tmp_path)]
    assert main(words) == 1
    said = capsys.readouterr().err
    assert 'no backend serves this model' in said
    assert '--backend mmft' in said


def test_the_backend_finds_code_where_this_process_found_it(made):
    command = mmft_command('own', 1, code=['served_parts'])
    assert f'--code-path={made[0].parent / "code"}' in command
    assert '--allow-code=served_parts' in command
    assert f'--code-path={Path(json.__file__).parents[1]}' in mmft_command('own', 1, code=['json.tool'])
    assert sys.executable == command[0]


def test_both_ways_of_counting_agree_on_an_export(tmp_path):
    encoder, config = make_encoder('Qwen2'), model_config('Qwen2')
    base = make_base(tmp_path / 'base', config, encoder=encoder)
    path = cached_export({'pretrained': str(base)}, None, tmp_path, log=lambda line: None)
    counters = [EncoderCounter(path), ProcessorCounter(path)]
    # Not for several large ones: an encoder shares the tiles among them, transformers' processor does not.
    for images in ([], [picture(500, 310)], [picture(56, 56)] * 2):
        messages = question('这是什么菜？ What?', *map(data_url, images))['messages']
        sizes = [image.size for image in images]
        got = {counter.count(messages, sizes, None) for counter in counters}
        assert got == {len(encoder.prompt('这是什么菜？ What?', images))}


def test_a_picture_of_onevision_is_counted_alone_and_among_others(tmp_path):
    encoder = llava_encoder('Qwen2', image_processor=ONEVISION)
    path = make_base(tmp_path / 'out', llava_config('Qwen2', **ONEVISION_PARTS), 'hf', encoder=encoder)
    counters = [EncoderCounter(path), ProcessorCounter(path)]
    for images in ([], [picture(500, 310)], [picture(40, 300)], [picture(500, 310), picture(30, 56), picture(56, 90)]):
        messages = question('What?', *map(data_url, images))['messages']
        got = {counter.count(messages, [image.size for image in images], None) for counter in counters}
        assert got == {len(encoder.prompt('What?', images))}


def test_the_dialect_hands_the_request_on():
    request = ChatRequest([{'role': 'user', 'content': 'x'}], sampling={'seed': 3}, extra={'logit_bias': {}})
    request.max_tokens = 5
    body = MmftDialect().body(request)
    assert (body['max_completion_tokens'], body['seed'], body['logit_bias']) == (5, 3, {})
