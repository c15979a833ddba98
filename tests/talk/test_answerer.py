"""Answerers: a tiny model in this process, and a server that says what it is told to."""

from __future__ import annotations

import base64
import contextlib
import io
import os
import signal
import threading
import time

import pytest
import torch
from PIL import Image

import mmft
from mmft.data.prompt import prompt_messages, to_parts
from mmft.errors import CheckpointError, ConfigError, DataError, MMFTError, ServerError
from mmft.talk.local_answerer import LocalAnswerer
from mmft.talk.open_answerer import check_target, open_answerer
from mmft.talk.remote_answerer import data_url
from mmft.talk.sampling import GumbelNoise
from tests.export.tiny import LORA, make_base, make_checkpoint, make_encoder, model_config, picture
from tests.talk.fakes import FakeServer, Said, event, save_picture


def user(text: str) -> dict[str, str]:
    return {'role': 'user', 'content': text}


@pytest.fixture(scope='module')
def directory(tmp_path_factory):
    config = model_config('Qwen2')
    return make_base(tmp_path_factory.mktemp('models') / 'tiny-qwen', config, encoder=make_encoder('Qwen2'))


@pytest.fixture(scope='module')
def local(directory):
    return open_answerer(directory)


# In this process.


def test_greedy_answers_are_those_of_chat(local, directory):
    model, encoder = mmft.load(directory)
    pictures = [picture(130, 60), picture(60, 65)]
    asked = [
        ([user('What dish is it? 这是什么菜？')], pictures[:1]),
        ([user('<image> or <image>?')], pictures),
        ([{'role': 'system', 'content': 'Be brief.'}, user('Hello')], []),
        ([user('<image>\nWhat?'), {'role': 'assistant', 'content': 'Rice.'}, user('And this?')], pictures),
    ]
    for messages, images in asked:
        *history, last = messages
        want = model.chat(encoder, last['content'], images, history, max_new_tokens=12)
        pieces = list(local.stream(messages, images, max_new_tokens=12))
        assert ''.join(pieces) == local.answer(messages, images, max_new_tokens=12) == want
        assert len(pieces) > 1
        assert all(pieces)
    assert local.name == 'tiny-qwen'


def test_paths_and_pictures_are_the_same(local, tmp_path):
    image = picture(70, 90)
    image.save(tmp_path / 'a.png')
    messages = [user('What?')]
    assert local.answer(messages, [tmp_path / 'a.png'], max_new_tokens=6) == local.answer(
        messages, [image], max_new_tokens=6
    )


def test_a_seed_gives_one_answer_whatever_else_is_drawn(local):
    def answer(seed):
        return local.answer([user('Hello')], max_new_tokens=12, temperature=1.0, top_p=0.95, seed=seed)

    first = answer(3)
    torch.manual_seed(77)
    state = torch.get_rng_state()
    assert answer(3) == first
    assert torch.equal(torch.get_rng_state(), state)  # nor does it draw from what the process draws from
    assert len({answer(seed) for seed in range(4)}) == 4
    assert len({answer(None) for _ in range(3)}) == 3


def test_draws_are_from_the_softmax():
    scores = torch.tensor([[1.0, 0.0, -1.0, float('-inf')]])
    noisy = GumbelNoise(0)
    drawn = torch.tensor([int(noisy(torch.zeros(1, 0), scores).argmax()) for _ in range(6000)])
    shares = drawn.bincount(minlength=4) / 6000
    torch.testing.assert_close(shares, scores.softmax(-1)[0], atol=0.02, rtol=0)
    assert shares[3] == 0


def test_closing_the_stream_stops_the_model(local, monkeypatch):
    steps, forward = [], local.model.llm.lm.forward
    monkeypatch.setattr(local.model.llm.lm, 'forward', lambda *a, **k: steps.append(1) or forward(*a, **k))
    pieces = local.stream([user('Hello')], max_new_tokens=300, temperature=2.0, seed=0)
    next(pieces)
    pieces.close()
    made = len(steps)
    time.sleep(0.05)
    assert made == len(steps) < 250
    assert local.answer([user('Hello')], max_new_tokens=2)


def test_questions_wait_for_each_other(local):
    want = [local.answer([user(text)], max_new_tokens=8) for text in ('One?', 'Two?')]
    got: dict[str, str] = {}

    def ask(text):
        got[text] = local.answer([user(text)], max_new_tokens=8)

    threads = [threading.Thread(target=ask, args=(text,)) for text in ('One?', 'Two?')]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [got['One?'], got['Two?']] == want


def test_a_question_that_is_stopped_while_it_waits_is_never_begun(local, monkeypatch):
    begun, decoded, prompt = [], [], local.encoder.prompt
    monkeypatch.setattr(local.encoder, 'prompt', lambda text, *rest: begun.append(text) or prompt(text, *rest))
    monkeypatch.setattr(local.model, 'answer', lambda *_, **__: 'yes')
    monkeypatch.setattr('mmft.talk.local_answerer.load_image', lambda image, **_: decoded.append(image) or image)
    stop, said = threading.Event(), []
    with local._busy:
        waiting = threading.Thread(
            target=lambda: said.extend(local.stream([user('Two?')], [picture(60, 60)], stop=stop)), daemon=True
        )
        waiting.start()
        time.sleep(0.05)
        assert decoded == []  # pictures of those who wait are not held
        stop.set()
        waiting.join(20)
        assert not waiting.is_alive()  # while the model is still busy
    assert (said, begun, decoded) == ([], [], [])
    assert local.answer([user('Three?')], [picture(60, 60)]) == 'yes'
    assert (begun, len(decoded)) == (['<image>\nThree?'], 1)


def test_an_answer_is_stopped_by_another_thread(local, monkeypatch):
    stop, steps, forward = threading.Event(), [], local.model.llm.lm.forward
    monkeypatch.setattr(local.model.llm.lm, 'forward', lambda *a, **k: steps.append(1) or forward(*a, **k))
    pieces = local.stream([user('Hello')], max_new_tokens=300, temperature=2.0, seed=0, stop=stop)
    next(pieces)
    stop.set()
    list(pieces)
    assert len(steps) < 250


def test_a_directory_is_looked_over_without_reading_its_weights(directory, tmp_path, monkeypatch):
    monkeypatch.setattr(mmft, 'load', None)
    check_target(directory)
    for target, options, what in (
        (tmp_path / 'none', {}, 'is not a directory'),
        (directory, {'dtype': 'floaty'}, "dtype 'floaty'"),
        (directory, {'device': 'warp'}, "device 'warp'"),
    ):
        with pytest.raises(MMFTError, match=what):
            check_target(target, **options)


def test_a_server_is_looked_up_without_asking_it_anything():
    with FakeServer(models=['one', 'two'], key='secret') as server:
        check_target(server.url, model='two', api_key='secret')
        with pytest.raises(ConfigError, match='2 models'):
            check_target(server.url, api_key='secret')
        with pytest.raises(ServerError, match='401'):
            check_target(server.url, model='two')
        assert server.requests == []
    with pytest.raises(ServerError, match='does not answer'):
        check_target(server.url, model='two')


def test_characters_come_whole(local):
    said = iter([[1], [1, 2], [1, 2, 3], '你好'])
    texts = {1: '\ufffd', 2: '你', 3: '你\ufffd'}
    reader = LocalAnswerer.__new__(LocalAnswerer)
    reader.encoder = type('Encoder', (), {'decode': staticmethod(lambda ids: texts[len(ids)])})
    queue = type('Queue', (), {'get': staticmethod(lambda: next(said))})
    pieces = list(reader._read(queue, used=5, most=9))
    assert [piece.text for piece in pieces] == ['你', '好']
    assert pieces[-1][1:] == (5, 3, 'stop')


def test_an_error_in_the_model_is_raised_where_the_answer_is_read(local, monkeypatch):
    def broken(*_, **__):
        raise torch.OutOfMemoryError('CUDA out of memory')

    monkeypatch.setattr(local.model, 'answer', broken)
    with pytest.raises(DataError, match='no memory on cpu is left'):
        local.answer([user('Hello')])


def test_ctrl_c_reaches_a_reader_who_waits(local, monkeypatch):
    def slow(*_, stopping_criteria, **__):
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
        while not stopping_criteria[0].stopped:
            time.sleep(0.01)
        return ''

    with monkeypatch.context() as patch:
        patch.setattr(local.model, 'answer', slow)
        with pytest.raises(KeyboardInterrupt):
            local.answer([user('Hello')])
    assert local.answer([user('Hello')], max_new_tokens=2)  # and the model is free again


def test_a_conversation_that_does_not_fit_is_refused(local):
    with pytest.raises(DataError, match=r'a conversation of \d+ tokens\n.*fewer than 512'):
        local.answer([user('again ' * 600)])
    # What fits is answered, in the room that is left.
    assert local.answer([user('again ' * 120)], max_new_tokens=400)


def test_a_directory_without_a_tokenizer_is_refused(tmp_path):
    make_base(tmp_path / 'bare', model_config('Qwen2'))
    with pytest.raises(CheckpointError, match='holds no tokenizer'):
        open_answerer(tmp_path / 'bare')


def test_a_checkpoint_is_exported_first(tmp_path, capsys):
    encoder, config = make_encoder('Qwen2'), model_config('Qwen2')
    cfg = {'model': config, 'pretrained': str(make_base(tmp_path / 'base', config, encoder=encoder)), 'tune': LORA}
    (tmp_path / 'run').mkdir()
    path, trained = make_checkpoint(tmp_path / 'run' / 'iter_1.pth', cfg, encoder)
    answerer = open_answerer((cfg, path))
    image = picture(60, 60)
    want = trained.chat(encoder, 'What?', [image], max_new_tokens=8)
    assert answerer.answer([user('What?')], [image], max_new_tokens=8) == want
    assert answerer.name == 'run/iter_1.pth'
    assert capsys.readouterr().out == ''  # which is for answers


# Any answerer.


@pytest.mark.parametrize(
    ('settings', 'bad'),
    [({'max_new_tokens': 0}, 'max_new_tokens=0'), ({'temperature': -1.0}, '-1'), ({'top_p': 0.0}, 'top_p=0'),
     ({'temperature': float('nan')}, 'nan')],
)  # fmt: skip
def test_settings_out_of_range_are_refused(settings, bad):
    with pytest.raises(ConfigError, match=bad):
        Said('hi').stream([user('?')], **settings)


@pytest.mark.parametrize(
    ('messages', 'images', 'what'),
    [([], 0, 'without a question'), ([{'role': 'assistant', 'content': 'x'}], 0, 'without a question'),
     ([user('  ')], 0, 'an empty question'), ([user('<image>?')], 0, '1 <image>'),
     ([user('<image>?')], 2, '2 pictures'),
     ([user('<image><image>'), {'role': 'assistant', 'content': 'x'}, user('y')], 1, '2 <image>')],
)  # fmt: skip
def test_conversations_that_do_not_fit_are_refused(messages, images, what):
    with pytest.raises(DataError, match=what):
        prompt_messages(messages, images)


def test_pictures_without_a_place_come_first_in_the_last_question():
    history = [user('<image>\nOne?'), {'role': 'assistant', 'content': '<image> is a word here'}]
    placed = prompt_messages([*history, user('Two?')], 3)
    assert placed[:2] == history
    assert placed[2]['content'] == '<image>\n<image>\nTwo?'


def test_outer_spaces_are_left_out_while_it_streams():
    assert list(Said(' \n a  b \n ').stream([user('?')])) == ['a', '  b']


def test_closing_reaches_the_answerer():
    said = Said('one two three')
    pieces = said.stream([user('?')])
    next(pieces)
    pieces.close()
    assert said.closed


@pytest.mark.parametrize('background', [(255, 255, 255), (255, 128, 0), None])
def test_transparent_pictures_lie_on_the_background_of_the_encoder(local, background, monkeypatch, tmp_path):
    Image.new('RGBA', (60, 60), (7, 8, 9, 0)).save(tmp_path / 'clear.png')
    seen = []
    monkeypatch.setattr(local.encoder, 'background', background)
    monkeypatch.setattr(local.encoder, 'prompt', lambda question, images, history: seen.extend(images))
    monkeypatch.setattr(local.model, 'answer', lambda *_, **__: 'yes')
    assert local.answer([user('What?')], [tmp_path / 'clear.png', Image.open(tmp_path / 'clear.png')]) == 'yes'
    assert [image.getpixel((0, 0)) for image in seen] == [background or (7, 8, 9)] * 2


# On a server.


def test_a_server_is_asked_as_openai_has_it(tmp_path):
    red = save_picture(tmp_path / 'red.jpg')
    with FakeServer(models=['dir/of/model']) as server:
        remote = open_answerer(server.url)
        messages = [{'role': 'system', 'content': 'Be brief.'}, user('What?')]
        settings = {'max_new_tokens': 9, 'temperature': 0.5, 'top_p': 0.9, 'seed': 4}
        assert list(remote.stream(messages, [red], **settings)) == ['a', ' dish']
        assert remote.name == f'model @ 127.0.0.1:{server.url.rsplit(":", 1)[1]}'
    request = server.requests[0]
    parts = request['messages'][1].pop('content')
    assert request == {
        'model': 'dir/of/model', 'messages': [messages[0], {'role': 'user'}], 'stream': True, 'max_tokens': 9,
        'temperature': 0.5, 'top_p': 0.9, 'seed': 4,
    }  # fmt: skip
    assert [part['type'] for part in parts] == ['image_url', 'text']
    assert parts[1]['text'] == 'What?'
    assert base64.b64decode(parts[0]['image_url']['url'].split(',')[1]) == red.read_bytes()


@pytest.mark.parametrize('path', ['', '/', '/v1', '/v1/', '/v1/chat/completions'])
def test_the_address_may_be_written_in_any_way(path):
    with FakeServer(streams=False) as server:
        assert open_answerer(server.url + path).answer([user('?')]) == 'a dish'
    assert 'seed' not in server.requests[0]


def test_pictures_stand_where_their_placeholders_stood(tmp_path):
    blue, red = (
        save_picture(tmp_path / name, color) for name, color in (('b.png', (0, 0, 255)), ('r.png', (255, 0, 0)))
    )
    messages = [user('Is <image>\nlike <image>?'), {'role': 'assistant', 'content': 'No <image>.'}]
    made = to_parts(messages, map(data_url, [blue, red]))
    kinds = [part.get('text', part['type']) for part in made[0]['content']]
    assert kinds == ['Is ', 'image_url', 'like ', 'image_url', '?']
    assert made[1]['content'] == 'No <image>.'
    seen = Image.open(io.BytesIO(base64.b64decode(made[0]['content'][3]['image_url']['url'].split(',')[1])))
    assert seen.getpixel((0, 0)) == (255, 0, 0)


def test_pictures_are_sent_as_every_program_reads_them(tmp_path):
    """Which they are is the matter of ``test_portable.py``."""
    image = picture(8, 6)
    image.save(tmp_path / 'plain.webp')
    image.convert('RGBA').save(tmp_path / 'alpha.png')
    whole = base64.b64encode((tmp_path / 'plain.webp').read_bytes()).decode()
    assert data_url(tmp_path / 'plain.webp') == f'data:image/webp;base64,{whole}'
    for source in (tmp_path / 'alpha.png', str(tmp_path / 'alpha.png'), image):
        head, data = data_url(source).split(',')
        sent = Image.open(io.BytesIO(base64.b64decode(data)))
        assert (head, sent.mode, sent.tobytes()) == ('data:image/png;base64', 'RGB', image.tobytes())


def test_a_key_is_needed_where_one_is_wanted():
    with FakeServer(key='secret') as server:
        for key in (None, 'wrong'):
            with pytest.raises(ServerError, match=r'401: Incorrect API key provided\n.*--api-key'):
                open_answerer(server.url, api_key=key)
        assert open_answerer(server.url, api_key='secret').answer([user('?')]) == 'a dish'


def test_of_several_models_one_is_named():
    with FakeServer(models=['one', 'two']) as server:
        with pytest.raises(ConfigError, match='2 models: one, two'):
            open_answerer(server.url)
        open_answerer(server.url, model='two').answer([user('?')])
        assert server.requests[0]['model'] == 'two'


@pytest.mark.parametrize(
    ('say', 'what'),
    [
        (lambda _: (400, {'error': {'message': '9000 tokens,\nmore than 8192'}}), 'answers 400: 9000 tokens, more'),
        (lambda _: (422, {'detail': [{'msg': 'field required'}]}), '422.*field required'),
        (lambda _: (503, 'busy'), 'answers 503: busy'),
        (lambda _: (302, {}), 'answers 302'),
        (lambda _: ['one ', b'data: {"error": {"message": "engine died"}}\n\n'], 'in mid-answer: engine died'),
        (lambda _: ['one ', b'data: not json\n\n'], 'answers data: not json'),
        (lambda _: ['one ', b'data: [1]\n\n'], r'answers \[1\]'),
        (lambda _: ['one ', b''], 'closed the connection in mid-answer'),
        (lambda _: [b'data: {"choices":[{"text":"old"}]}\n\n'], "OpenAI's chat completions"),
    ],
)  # fmt: skip
def test_what_a_server_does_wrong_is_told_and_it_can_be_asked_again(say, what):
    with FakeServer(say) as server:
        remote = open_answerer(server.url)
        with pytest.raises(ServerError, match=what):
            remote.answer([user('?')])
        server.say = lambda _: ['fine']
        assert remote.answer([user('?')]) == 'fine'


def test_nothing_at_the_address():
    with FakeServer() as server:
        url = server.url
    with pytest.raises(ServerError, match=r'does not answer: .*refused'):
        open_answerer(url)
    with pytest.raises(ConfigError, match='the address'):
        open_answerer('http://')


def test_a_silent_server_is_not_waited_for_for_ever():
    with FakeServer(lambda _: time.sleep(0.6) or ['late']) as server:
        remote = open_answerer(server.url, timeout=0.1)
        with pytest.raises(ServerError, match='silent'):
            remote.answer([user('?')])


def test_closing_the_stream_hangs_up():
    def endless(_):
        while not server.gone.is_set():
            yield event('word ')
            time.sleep(0.01)

    with FakeServer(endless) as server:
        pieces = open_answerer(server.url).stream([user('?')])
        with contextlib.closing(pieces):
            assert next(pieces) == 'word'
        assert server.gone.wait(5)
