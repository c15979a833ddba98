"""Readers: each format gives the same messages, and each kind of bad record one error that says what to do."""

from __future__ import annotations

import pytest

from mmft.data import formats
from mmft.data.formats import format_names, parse_record, register_format
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
    with pytest.raises(DataError, match='0 <image> placeholders for 1 pictures'):
        parse_record(raw)
    with pytest.raises(DataError, match='0 <image> placeholders for 2 pictures'):
        parse_record(llava('What?', 'This.', image=['a.jpg', 'b.jpg']), 'internvl')


def test_content_parts_are_joined_by_lines():
    parts = [{'type': t} if t == 'image' else {'type': 'text', 'text': t} for t in ('Left:', 'image', 'image', 'Same?')]
    record = parse_record({'messages': [{'role': 'user', 'content': parts}, ASK[1]], 'images': ['a', 'b']})
    assert record.messages[0]['content'] == 'Left:\n<image>\n<image>\nSame?'


@pytest.mark.parametrize(
    ('raw', 'what', 'todo'),
    [
        ({'text': 'hi'}, 'no known format', 'rename the keys'),
        ({'messages': ASK, 'conversations': []}, 'more than one format', 'format='),
        (llava(), 'is []', 'not empty'),
        ({'conversations': 'Hello'}, "is 'Hello'", 'a list'),
        ({'conversations': ['Hello']}, "turn 1 of `conversations` is 'Hello'", '`from` and `value`'),
        ({'conversations': [{'from': 'bot', 'value': 'x'}]}, "the role 'bot'", "'gpt', 'human'"),
        ({'conversations': [{'from': None, 'value': 'x'}]}, 'the role None', "'gpt', 'human'"),
        ({'messages': [{'role': 'tool', 'content': 'x'}]}, "the role 'tool'", 'mend `role`'),
        (llava('Hi', 5), 'turn 2 holds 5', 'a text'),
        (llava('Hi', ''), 'turn 2, an answer, is empty', 'write it'),
        (llava('Hi', ' \n'), 'turn 2, an answer, is empty', 'write it'),
        (llava('Hi'), 'the last question has no answer', 'add the answer'),
        (llava('Hi', 'a', 'b'), 'the last question has no answer', 'add the answer'),
        ({'messages': [ASK[0], ASK[0], ASK[1]]}, 'turn 2 is of the user, not of the assistant', 'join turns'),
        ({'messages': [ASK[1]]}, 'turn 1 is of the assistant, not of the user', 'remove'),
        ({'messages': [{'role': 'system', 'content': 'x'}]}, 'no answer', 'add the answer'),
        (llava('<image> a', 'b'), '1 <image> placeholders for 0 pictures', 'add the missing pictures'),
        (llava('<image> <image>', 'b', image='a'), '2 <image> placeholders for 1 pictures', 'surplus <image>'),
        (llava('a', 'b', image=['x', 'y']), '0 <image> placeholders for 2 pictures', 'where each picture belongs'),
        (llava('a', '<image>', image='x'), 'turn 2, of the assistant, holds <image>', 'move <image>'),
        (llava('<image>', 'b', image=5), 'given as 5', 'a path'),
        (llava('<image>', 'b', image=[' ']), "given as ' '", 'a path'),
        (llava('<image>', 'b', image='a', images=['b']), 'both `image` and `images`', 'one of them'),
        ({'messages': [{'role': 'user', 'content': [{'type': 'video'}]}, ASK[1]]}, 'has a part', '"type": "text"'),
        ({'messages': [{'role': 'user', 'content': 5}, ASK[1]]}, 'turn 1 holds 5', 'a text, or a list'),
        (
            {'messages': [{'role': 'user', 'content': [{'type': 'image', 'path': 'a'}]}, ASK[1]], 'images': ['a']},
            '1 pictures in the content parts and 1 more',
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
