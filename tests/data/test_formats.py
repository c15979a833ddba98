"""Readers: each format gives the same messages, and each kind of bad record one error that says what to do."""

from __future__ import annotations

import pytest

from mmft.data.records import formats
from mmft.data.records.formats import format_names, parse_record, register_format
from mmft.data.records.record_keys import PICTURE_KEYS, REFUSED
from mmft.errors import ConfigError, DataError

ASK = [{'role': 'user', 'content': '<image>\nWhat is it?'}, {'role': 'assistant', 'content': 'Rice noodle rolls.'}]


def llava(*turns, **keys):
    """A record with LLaVA's keys; the turns alternate, beginning with the human."""
    names = ['human', 'gpt']
    return {'conversations': [{'from': names[i % 2], 'value': t} for i, t in enumerate(turns)], **keys}


@pytest.mark.parametrize(
    'raw',
    [
        llava('<image>\nWhat is it?', 'Rice noodle rolls.', image='a.jpg'),
        llava('<image>\nWhat is it?', 'Rice noodle rolls.', image=['a.jpg']),
        {'messages': ASK, 'images': ['a.jpg']},
        {'messages': ASK, 'images': [{'path': 'a.jpg'}]},
        {
            'messages': [
                {'role': 'user', 'content': [{'type': 'image'}, {'type': 'text', 'text': 'What is it?'}]},
                {'role': 'assistant', 'content': [{'type': 'text', 'text': 'Rice noodle rolls.'}]},
            ],
            'images': ['a.jpg'],
        },
        {
            'messages': [
                {
                    'role': 'user',
                    'content': [{'type': 'image', 'image': 'a.jpg'}, {'type': 'text', 'text': 'What is it?'}],
                },
                ASK[1],
            ]
        },
    ],
)
def test_all_formats_say_the_same(raw):
    record = parse_record(raw)
    assert record.messages == ASK
    assert record.images == ['a.jpg']
    assert record.answer == 'Rice noodle rolls.'
    assert record.raw is raw


def test_text_only_many_images_system_and_turns():
    assert parse_record(llava('Hi', 'Hello')).images == []
    assert parse_record(llava('Hi', 'Hello', image='')).images == []
    assert parse_record(llava('Hi', 'Hello', image=None)).images == []
    many = parse_record(llava('A <image> B <image>', 'x', 'and <image>?', 'y', image=['1.png', '2.png', '3.png'], id=7))
    assert many.images == ['1.png', '2.png', '3.png']
    assert many.meta == {'id': 7}
    system = {'role': 'system', 'content': 'Be short.'}
    assert parse_record({'messages': [system, *ASK], 'images': ['a']}).messages[0] == system


def test_reading_does_not_change_the_record():
    raw = llava('What?', 'This.', image='a.jpg')
    parse_record(raw, 'internvl')
    assert raw == llava('What?', 'This.', image='a.jpg')


def test_internvl_puts_a_single_picture_first():
    # InternVL's own rule for one picture without a placeholder; LLaVA's format has no such rule.
    raw = llava('What colour is it?', 'Gray.', image='a.jpg')
    assert parse_record(raw, 'internvl').messages[0]['content'] == '<image>\nWhat colour is it?'
    assert parse_record(raw, conversations='internvl').images == ['a.jpg']
    with pytest.raises(DataError, match='0 <image> in the questions, 1 picture'):
        parse_record(raw)
    with pytest.raises(DataError, match='0 <image> in the questions, 2 pictures'):
        parse_record(llava('What?', 'This.', image=['a.jpg', 'b.jpg']), 'internvl')


def test_content_parts_are_joined_by_lines():
    parts = [{'type': t} if t == 'image' else {'type': 'text', 'text': t} for t in ('Left:', 'image', 'image', 'Same?')]
    record = parse_record({'messages': [{'role': 'user', 'content': parts}, ASK[1]], 'images': ['a', 'b']})
    assert record.messages[0]['content'] == 'Left:<image>\n<image>\nSame?'


@pytest.mark.parametrize(
    ('raw', 'what', 'todo'),
    [
        ({'foo': 'hi'}, 'no known format', 'rename the keys'),
        ({'text': 'hi'}, 'plain text', 'as `messages`'),
        ({'query': 'a', 'response': 'b', 'history': []}, "ms-swift's query and response", 'as `messages`'),
        ({'instruction': 'a', 'input': '', 'output': 'b'}, 'LLaMA-Factory', 'as `messages`'),
        ({'conversation': [{'input': 'a', 'output': 'b'}]}, "XTuner's", 'as `messages`'),
        ({'messages': ASK, 'conversations': []}, 'more than one format', 'format='),
        (llava(), 'is []', 'not empty'),
        ({'conversations': 'Hello'}, "is 'Hello'", 'a list'),
        ({'conversations': ['Hello']}, "turn 1 of `conversations` is 'Hello'", '`from` and `value`'),
        ({'conversations': [{'from': 'bot', 'value': 'x'}]}, "the role 'bot'", "'gpt', 'human'"),
        ({'conversations': [{'from': None, 'value': 'x'}]}, 'the role None', "'gpt', 'human'"),
        ({'messages': [{'role': 'tool', 'content': 'x'}]}, "the role 'tool'", 'correct `role`'),
        (llava('Hi', 5), 'turn 2 holds 5', 'a text'),
        (llava('Hi', ''), 'message 2 is an empty answer', 'write it'),
        (llava('Hi', ' \n'), 'message 2 is an empty answer', 'write it'),
        (llava('', 'Hello'), 'message 1 is an empty question', 'write it'),
        (llava('Hi'), "the last message is of role 'user'", 'add the answer'),
        (llava('Hi', 'a', 'b'), "the last message is of role 'user'", 'add the answer'),
        ({'messages': [ASK[0], ASK[0], ASK[1]]}, "message 2 is of role 'user'", 'join neighbouring'),
        ({'messages': [ASK[1]]}, "message 1 is of role 'assistant'", 'drop what comes before'),
        ({'messages': [{'role': 'system', 'content': 'x'}]}, 'nothing but a system message', 'a question'),
        (
            {'messages': [ASK[0], {'role': 'system', 'content': 'x'}, ASK[1]]},
            'message 2 is of role system',
            'beginning',
        ),
        (llava('<image> a', 'b'), '1 <image> in the questions, 0 pictures', 'add the missing pictures'),
        (llava('<image> <image>', 'b', image='a'), '2 <image> in the questions, 1 picture', 'surplus <image>'),
        (llava('a', 'b', image=['x', 'y']), '0 <image> in the questions, 2 pictures', 'where each picture belongs'),
        (llava('a', '<image>', image='x'), "message 2 contains the text '<image>'", 'in a question'),
        (llava('<image>', 'b', image=5), 'given as 5', 'a path'),
        (llava('<image>', 'b', image=[' ']), "given as ' '", 'a path'),
        (llava('<image>', 'b', image='a', images=['b']), 'both `image` and `images`', 'one of them'),
        ({'messages': [{'role': 'user', 'content': [{'type': 'video'}]}, ASK[1]]}, 'has a part', '"type": "text"'),
        ({'messages': [{'role': 'user', 'content': 5}, ASK[1]]}, 'turn 1 holds 5', 'a text, or a list'),
        (
            {'messages': [{'role': 'user', 'content': [{'type': 'image', 'path': 'a'}]}, ASK[1]], 'images': ['a']},
            '1 picture in the turns and 1 more',
            'leave',
        ),
        (
            {'messages': [{'role': 'user', 'content': [{'type': 'text', 'text': 'an <image>'}]}, ASK[1]]},
            'inside a text part',
            '{"type": "image"}',
        ),
    ],
)
def test_bad_records(raw, what, todo):
    with pytest.raises(DataError) as caught:
        parse_record(raw)
    assert what in str(caught.value)
    assert todo in str(caught.value)


def test_a_new_format_is_one_function(monkeypatch):
    monkeypatch.setattr(formats, '_FORMATS', dict(formats._FORMATS))

    @register_format('captions', keys={'caption', 'file_name'})
    def read_captions(raw):
        messages = [{'role': 'user', 'content': '<image>'}, {'role': 'assistant', 'content': raw['caption']}]
        return messages, [raw['file_name']]

    assert 'captions' in format_names()
    assert parse_record({'caption': 'a dish', 'file_name': 'x.jpg'}).answer == 'a dish'


def test_unknown_format():
    with pytest.raises(ConfigError, match="'llava', 'internvl', 'messages'"):
        parse_record(llava('a', 'b'), 'lava')


def ask(content='<image>\nWhat is it?', **keys):
    return {'messages': [{'role': 'user', 'content': content}, ASK[1]], **keys}


@pytest.mark.parametrize(
    'raw',
    [
        *(ask(**{key: 'a.jpg'}) for key in PICTURE_KEYS),
        *(ask(**{key: ['a.jpg']}) for key in PICTURE_KEYS),
        *(llava('<image>\nWhat is it?', 'Rice noodle rolls.', **{key: 'a.jpg'}) for key in PICTURE_KEYS),
        *(
            ask(f'{mark}\nWhat is it?', images=['a.jpg'])
            for mark in ('<image1>', '<image 1>', '<image_1>', '<image0>', '<|image_1|>', '<|image|>', '<ImageHere>',
                         '<|vision_start|><|image_pad|><|vision_end|>', '<start_of_image>', '<image_placeholder>',
                         '<IMAGE>')
        ),
        ask('<img>a.jpg</img>\nWhat is it?'),
        llava('<img>a.jpg</img>\nWhat is it?', 'Rice noodle rolls.'),
        {'messages': [{'role': 'user', 'content': 'What is it?', 'images': ['a.jpg']}, ASK[1]]},
        {'messages': [{'role': 'user', 'content': '<image>\nWhat is it?', 'image': 'a.jpg'}, ASK[1]]},
        ask(image='a.jpg', image_url='https://example.org/a.jpg', video=None, tools='[]', system='', history=[[]]),
        ask(image='a.jpg', objects={'ref': [], 'bbox': []}, weight=1.0, videos=[None]),
    ],
)  # fmt: skip
def test_pictures_in_the_ways_of_other_tools(raw):
    record = parse_record(raw)
    assert (record.messages, record.images, record.unread) == (ASK, ['a.jpg'], ())


def test_numbered_pictures_go_where_their_number_says():
    record = parse_record(ask('Is <image2> like <image1>?', images=['a.jpg', 'b.jpg']))
    assert record.images == ['b.jpg', 'a.jpg']
    assert record.messages[0]['content'] == 'Is <image> like <image>?'
    record = parse_record(ask('<image><image> Is the colour of <image1> that of <image2>?', images=['a', 'b']))
    assert record.images == ['a', 'b']
    assert record.unread == ('`<image1>` in the text', '`<image2>` in the text')


@pytest.mark.parametrize('key', ['system', 'system_prompt', 'system_message'])
@pytest.mark.parametrize('read', [lambda **keys: ask(images=['a.jpg'], **keys), lambda **keys: llava(
    '<image>\nWhat is it?', 'Rice noodle rolls.', image='a.jpg', **keys)])  # fmt: skip
def test_a_system_message_beside_the_turns(key, read):
    system = {'role': 'system', 'content': 'You are an inspector.'}
    record = parse_record(read(**{key: 'You are an inspector.'}))
    assert record.messages == [system, *ASK]
    both = parse_record({'messages': record.messages, 'images': ['a.jpg'], key: system['content']})
    assert both.messages == record.messages
    with pytest.raises(DataError, match='two system messages'):
        parse_record({'messages': record.messages, 'images': ['a.jpg'], key: 'Another.'})
    with pytest.raises(DataError, match=f'`{key}` holds 5'):
        parse_record(read(**{key: 5}))


@pytest.mark.parametrize('keys', [{'loss': False}, {'weight': 0}, {'weight': 0.0}, {'loss': False, 'weight': 0}])
@pytest.mark.parametrize('place', [0, 1])
def test_answers_that_are_not_trained(keys, place):
    talk = [{'role': 'user', 'content': 'A?'}, {'role': 'assistant', 'content': 'a'}] * 2
    turns = [dict(turn) for turn in talk]
    turns[2]['content'], turns[3]['content'] = 'B?', 'b'
    turns[1 + 2 * place].update(keys)
    record = parse_record({'messages': turns})
    assert [turn.get('loss', True) for turn in record.messages[1::2]] == [place != 0, place != 1]
    assert record.answer == 'ba'[place]
    assert record.question == ([{k: t[k] for k in ('role', 'content')} for t in turns[: 3 - 2 * place]], [])


@pytest.mark.parametrize(
    ('turn', 'keys', 'what'),
    [
        (1, {'loss': False}, 'no answer is trained'),
        (1, {'weight': 0.5}, '`weight` of turn 2 is 0.5'),
        (1, {'loss': 'no'}, "`loss` of turn 2 is 'no'"),
        (1, {'weight': [0]}, r'`weight` of turn 2 is \[0\]'),
        (1, {'loss': True, 'weight': 0}, 'contradict'),
        (0, {'loss': True}, 'turn 1, of the user, has `loss` true'),
    ],
)
def test_loss_and_weight_that_cannot_be_followed(turn, keys, what):
    turns = [dict(t) for t in ASK]
    turns[turn].update(keys)
    with pytest.raises(DataError, match=what):
        parse_record({'messages': turns, 'images': ['a.jpg']})


@pytest.mark.parametrize('key', [*REFUSED, 'label'])
def test_keys_that_change_the_meaning_are_refused(key):
    value = True if key == 'label' else ['x']
    for raw in (ask(**{key: value}), llava('Hi', 'Hello', **{key: value})):
        with pytest.raises(DataError) as caught:
            parse_record(raw)
        assert f'`{key}`' in str(caught.value)
        assert f"ignore_keys=['{key}']" in str(caught.value)
    assert parse_record(llava('Hi', 'Hello', **{key: value}), ignore_keys=[key]).unread == ()
    assert parse_record(llava('Hi', 'Hello', **{key: None})).unread == ()
    if key not in ('loss', 'weight'):
        turns = [ASK[0], {**ASK[1], key: value}]
        with pytest.raises(DataError, match=f'`{key}` of turn 2'):
            parse_record({'messages': turns, 'images': ['a.jpg']})


def test_other_keys_are_named_wherever_they_stand():
    part = {'type': 'text', 'text': 'Hi', 'fps': 2}
    turns = [{'role': 'user', 'content': [part]}, {'role': 'assistant', 'content': 'Hello', 'mood': 'glad'}]
    record = parse_record({'messages': turns, 'id': 1, 'source': 'x', 'width': 3, 'sytem': 'Be short', 'hint': 'greet'})
    assert record.unread == (
        '`sytem` (did you mean `system`?)', '`hint`', '`fps` of a content part', '`mood` of a turn'
    )  # fmt: skip
    with pytest.raises(DataError, match='without pictures, and with `photo`'):
        parse_record(llava('Hi', 'Hello', photo='a.JPG'))
    assert parse_record(llava('<image>', 'Hello', photo='a.JPG', image='b.jpg')).unread[0].startswith('`photo`, which')


@pytest.mark.parametrize(
    ('key', 'meaning'),
    [
        ('instruction', 'the question'),
        ('context', 'the question'),
        ('response', 'the answer'),
        ('crop', 'which part of a picture'),
        ('depth', 'something else to be seen'),
    ],
)
def test_keys_that_may_change_the_meaning_are_reported_with_it(key, meaning):
    (phrase,) = parse_record(llava('Hi', 'Hello', **{key: 'x'})).unread
    assert f'`{key}`' in phrase
    assert meaning in phrase


@pytest.mark.parametrize(
    ('text', 'unread'),
    [
        ('<video>\nWhat happens?', '<video>'),
        ('<im_start><im_end> What is it?', '<im_start>'),
        ('<|begin_of_video|><|end_of_video|> What?', '<|end_of_video|>'),
        ('Find <ref-object>', '<ref-object>'),
        ('<img></img>What?', '<img></img>'),
        ('<|vision_start|><|video_pad|><|vision_end|> What?', '<|video_pad|>'),
        ('Why is <video controls>...</video> and <video></video> not shown?', ''),
        ('What does the tag `<video>` do?', ''),
        ('<ref>the sheep</ref><box>[[1, 2, 3, 4]]</box>', ''),
    ],
)
def test_marks_of_other_media_are_named(text, unread):
    found = parse_record(llava(text, 'It does.')).unread
    assert (f'`{unread}` in the text' in found) if unread else not found


@pytest.mark.parametrize(
    ('raw', 'what'),
    [
        (ask('<image1> and <image1>', images=['a', 'b']), '<image1> do not fit 2 pictures'),
        (ask('<image1> and <image3>', images=['a', 'b']), 'do not fit 2 pictures'),
        (ask('<image1>'), 'do not fit 0 pictures'),
        (ask('<img>a.jpg</img>', images=['a.jpg']), 'one of the two places'),
        (ask(img='a.jpg', image_path='b.jpg'), 'both `image_path` and `img`'),
    ],
)
def test_placeholders_that_do_not_fit(raw, what):
    with pytest.raises(DataError, match=what):
        parse_record(raw)
