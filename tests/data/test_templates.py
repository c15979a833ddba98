"""Chat templates: the originals' prompts, what is trained, and the same text from Jinja."""

from __future__ import annotations

import re

import pytest

from mmft.data.text.conversation import check_conversation
from mmft.data.text.templates import ChatTemplate, build_template, register_template
from mmft.data.text.templates.jinja import to_jinja
from mmft.data.text.tokenizers import load_tokenizer
from mmft.errors import ConfigError, DataError
from mmft.registry import TEMPLATES
from tests.helpers import GOLDEN, golden_json

ROLES = {'human': 'user', 'gpt': 'assistant', 'system': 'system'}
PROMPTS = golden_json('internvl_prompts', 'prompts.json')
NAMES = sorted({row['template'] for row in PROMPTS})


def messages_of(row):
    messages = [{'role': ROLES[turn['from']], 'content': turn['value']} for turn in row['messages']]
    if 'system_message' in row:
        messages.insert(0, {'role': 'system', 'content': row['system_message']})
    return messages, messages[-1]['role'] == 'user'


def in_parts(message):
    """The message with its content as a list of text and image parts, where that says the same."""
    texts = re.split(r'<image>\n', message['content'])
    parts = [{'type': 'text', 'text': texts[0]}]
    for text in texts[1:]:
        parts += [{'type': 'image'}, {'type': 'text', 'text': text}]
    return {'role': message['role'], 'content': parts}


@pytest.mark.parametrize('name', NAMES)
def test_prompts_are_the_originals(name):
    template = build_template(name)
    rows = [row for row in PROMPTS if row['template'] == name]
    assert len(rows) >= 18
    for row in rows:
        messages, generate = messages_of(row)
        assert template.text(messages, generate) == row['prompt'], row['id']


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('form', ['string', 'parts'])
def test_jinja_gives_the_same_text(name, form):
    template = build_template(name)
    tokenizer = load_tokenizer(GOLDEN / 'tokenizers' / 'qwen2')  # any: it only lends transformers' Jinja environment
    tokenizer.chat_template = to_jinja(template)
    for row in (row for row in PROMPTS if row['template'] == name):
        messages, generate = messages_of(row)
        given = messages if form == 'string' else [in_parts(message) for message in messages]
        text = tokenizer.apply_chat_template(given, tokenize=False, add_generation_prompt=generate)
        assert text == row['prompt'], row['id']


def test_jinja_writes_what_the_processor_wants_for_a_picture():
    tokenizer = load_tokenizer(GOLDEN / 'tokenizers' / 'qwen2')
    tokenizer.chat_template = to_jinja(build_template('Hermes-2'), '<IMG_CONTEXT>', prefix=' ')
    parts = [{'type': 'image'}, {'type': 'text', 'text': 'What "is" it?\n'}]
    text = tokenizer.apply_chat_template([{'role': 'user', 'content': parts}], tokenize=False)
    assert text.startswith(' <|im_start|>system\n')
    assert text.endswith('<|im_start|>user\n<IMG_CONTEXT>\nWhat "is" it?\n<|im_end|>')


def test_jinja_refuses_what_it_cannot_write():
    tokenizer = load_tokenizer(GOLDEN / 'tokenizers' / 'qwen2')
    tokenizer.chat_template = to_jinja(build_template('Hermes-2'))
    for message in ({'role': 'user', 'content': [{'type': 'audio'}]}, {'role': 'tool', 'content': 'x'}):
        with pytest.raises(Exception, match=r'audio|tool'):
            tokenizer.apply_chat_template([{'role': 'user', 'content': 'Hi'}, message], tokenize=False)


@pytest.mark.parametrize('name', NAMES)
def test_the_answer_and_its_end_token_are_trained_and_nothing_else(name):
    template = build_template(name)
    messages = [
        {'role': 'user', 'content': 'Q1'},
        {'role': 'assistant', 'content': 'A1'},
        {'role': 'user', 'content': 'Q2'},
        {'role': 'assistant', 'content': 'A2'},
    ]
    pieces = template.render(messages)
    assert [text.strip() for text, trained in pieces if trained] == [f'A1{template.end}', f'A2{template.end}']
    assert ''.join(text for text, _ in pieces) == template.text(messages)


def test_internvl2_5_does_not_train_the_newline_after_the_end_token():
    pieces = build_template('internvl2_5').render(
        [{'role': 'user', 'content': 'Q'}, {'role': 'assistant', 'content': 'A'}]
    )
    assert pieces[1:] == [('A<|im_end|>', True), ('\n', False)]


def test_only_internlm2_strips_messages_in_training():
    messages = [{'role': 'user', 'content': ' Q\n'}, {'role': 'assistant', 'content': '\n A '}]
    stripped = [{'role': 'user', 'content': 'Q'}, {'role': 'assistant', 'content': 'A'}]
    for name in NAMES:
        assert build_template(name).normalise(messages) == (stripped if name == 'internlm2-chat' else messages)
    assert (
        messages[0]['content'] == ' Q\n'
    )  # the caller's conversation is not edited (the original of internvl2_5 does)


U, A, S = ({'role': role, 'content': 'x'} for role in ('user', 'assistant', 'system'))


@pytest.mark.parametrize(
    ('messages', 'generate', 'match'),
    [
        ([], False, 'no messages'),
        ('Hello', False, 'no messages'),
        (['Hello'], False, 'message 1 is'),
        ([{'role': 'user'}], False, 'message 1 is'),
        ([{'role': 'human', 'content': 'x'}, A], False, "role 'human'"),
        ([U, {'role': 'assistant', 'content': None}], False, 'content of message 2'),
        ([U, {'role': 'assistant', 'content': ' \n'}], False, 'empty answer'),
        ([{'role': 'user', 'content': ''}, A], False, 'empty question'),
        ([S], False, 'nothing but a system message'),
        ([U, S, A], False, 'message 2 is of role system'),
        ([A, U, A], False, 'message 1 is of role'),
        ([U, U, A], False, 'message 2 is of role'),
        ([S, U, A, A], False, 'message 4 is of role'),
        ([U, A, U], False, 'the last message'),
        ([U, A], True, 'the last message'),
    ],
)
def test_bad_conversations_are_refused(messages, generate, match):
    with pytest.raises(DataError, match=match):
        check_conversation(messages, build_template('internlm2-chat'), generate)


def test_internvl2_5_takes_any_order_but_not_an_unanswered_end():
    template = build_template('internvl2_5')
    for messages in ([A, U, A], [S, U, U, A], [U, A]):
        check_conversation(messages, template)
    with pytest.raises(DataError, match='last message'):
        check_conversation([U, A, U], template)


def test_a_system_message_takes_the_place_of_the_templates_own():
    text = build_template('phi3-chat').text([{'role': 'system', 'content': 'Be brief.'}, U, A])
    assert text == '<|system|>\nBe brief.<|end|><|user|>\nx<|end|><|assistant|>\nx<|end|>'


def test_templates_are_built_from_names_configs_and_their_own_dicts():
    changed = build_template({'type': 'vicuna_v1.1', 'system_message': 'Hi.', 'user': ['Q: ', ' ']})
    assert changed.text([U], True) == 'Hi. Q: x ASSISTANT:'
    assert build_template(changed.to_dict()) == changed
    assert build_template(changed) is changed


def test_unknown_names_and_fields_are_config_errors():
    with pytest.raises(ConfigError, match='internlm2-chat'):
        build_template('internlm-chat')
    with pytest.raises(ConfigError, match='fields of'):
        build_template({'type': 'phi3-chat', 'systm': 'x'})
    with pytest.raises(ConfigError, match='fields of'):
        build_template({'type': 'ChatTemplate', 'name': 'x'})


def test_a_new_template_is_one_call():
    template = ChatTemplate('test-toy', '', ('', ''), ('Q', ' '), 'A', end='.')
    try:
        register_template(template)
        assert build_template('test-toy') == template
        with pytest.raises(ConfigError, match='exists'):
            register_template(template)
    finally:
        TEMPLATES.module_dict.pop('test-toy')
