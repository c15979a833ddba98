"""Directories without ``encoder.json``: their own chat template decides how mmft asks the model."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

import mmft
from mmft.checkpoint.encoder import load_encoder
from mmft.checkpoint.load import read_layout
from mmft.data.text.templates import build_template
from mmft.errors import ConfigError
from tests.data.llama3 import LLAMA_3, write_llama3
from tests.export.tiny import make_base, make_encoder, model_config
from tests.export.tiny_llava import ANYRES, llava_config, llava_encoder

TALK = [
    {'role': 'user', 'content': 'What is it?'},
    {'role': 'assistant', 'content': 'A dish.'},
    {'role': 'user', 'content': 'Which one?'},
]
SYSTEM = {'role': 'system', 'content': 'Be brief.'}
# As published: llava-hf/llava-1.5-7b-hf (no system message, no end token), OpenGVLab/InternVL3-*-hf.
LLAVA_15 = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' ' }}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
INTERNVL_3 = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}{% if message['content'] is string %}"
    "{{ message['content'] }}{% else %}{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "{{ '<IMG_CONTEXT>\n' }}{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}{% endfor %}"
    "{% endif %}{{'<|im_end|>\n'}}{% endfor %}{% if add_generation_prompt %}{{'<|im_start|>assistant\n' }}{% endif %}"
)
VARIANTS = {
    'internlm2': ('InternLM2', {}),
    'its own system message': ('InternLM2', {'template': {'type': 'internlm2-chat', 'system_message': '你好 "Bot"'}}),
    'an empty system message': ('Qwen2', {'template': {'type': 'internvl2_5', 'system_message': ''}}),
    'phi3': ('Phi3', {}),
    'another template': ('Qwen2', {'template': 'chatml_newline'}),
}


@pytest.fixture
def warned(caplog):
    caplog.set_level(logging.WARNING, 'mmft')
    return lambda: [record.getMessage() for record in caplog.records if record.name.startswith('mmft')]


def saved_again(path: Path, out: Path) -> Path:
    AutoModelForImageTextToText.from_pretrained(path).save_pretrained(out)
    AutoProcessor.from_pretrained(path).save_pretrained(out)
    assert not (out / 'encoder.json').exists()
    return out


def asked(place: Path, messages: list) -> list[int]:
    """What transformers' own processor makes of a conversation."""
    processor = AutoProcessor.from_pretrained(place)
    parts = [{**turn, 'content': [{'type': 'text', 'text': turn['content']}]} for turn in messages]
    return processor.tokenizer(processor.apply_chat_template(parts, add_generation_prompt=True))['input_ids']


def ids(encoder, messages) -> list[int]:
    return encoder(messages, add_generation_prompt=True).input_ids.tolist()


@pytest.mark.parametrize('name', VARIANTS)
def test_an_export_that_was_saved_again_is_asked_as_before(name, tmp_path, warned):
    kind, more = VARIANTS[name]
    trained = make_encoder(kind, **more)
    path = make_base(
        tmp_path / 'export', model_config(kind if kind != 'InternLM2' else 'InternLM2'), 'hf', encoder=trained
    )
    _, encoder = mmft.load(saved_again(path, tmp_path / 'again'))
    for messages in (TALK[:1], TALK, [SYSTEM, *TALK], [{**SYSTEM, 'content': ''}, *TALK]):
        assert ids(encoder, messages) == ids(trained, messages) == asked(tmp_path / 'again', messages)
    assert not warned()


@pytest.mark.parametrize(
    'template', ['vicuna_v1', {'type': 'vicuna_v1', 'system_message': ''}, 'llava_llama_2', 'plain', 'internvl_zh']
)
def test_a_llava_export_that_was_saved_again(template, tmp_path, warned):
    trained = llava_encoder('Llama', template=template)
    path = make_base(tmp_path / 'export', llava_config('Llama'), 'hf', encoder=trained)
    (path / 'encoder.json').unlink()
    _, encoder = mmft.load(path)
    if template != 'plain':
        for messages in (TALK[:1], TALK, [SYSTEM, *TALK]):
            assert ids(encoder, messages) == ids(trained, messages)
    else:
        assert encoder.template == trained.template
    assert not warned()


def test_a_template_of_another_program_without_a_system_message(tmp_path, warned):
    path = make_base(tmp_path / 'export', model_config('Qwen2'), 'hf', encoder=make_encoder('Qwen2'))
    (path / 'encoder.json').unlink()
    (path / 'chat_template.jinja').write_text(INTERNVL_3)
    encoder = load_encoder(path, 4)
    for messages in (TALK[:1], TALK, [SYSTEM, *TALK]):
        assert ids(encoder, messages) == asked(path, messages)
    assert not warned()


def test_llava_hfs_own_template_leaves_the_system_message_to_llava(tmp_path, warned):
    path = make_base(tmp_path / 'export', llava_config('Llama'), 'hf', encoder=llava_encoder('Llama'))
    (path / 'encoder.json').unlink()
    (path / 'chat_template.jinja').write_text(LLAVA_15)
    assert load_encoder(path, 4).template == build_template('vicuna_v1')
    assert not warned()


@pytest.mark.parametrize('kept', [False, True])
def test_a_template_that_is_none_of_ours_is_said(kept, tmp_path, warned):
    path = make_base(tmp_path / 'export', model_config('Qwen2'), 'hf', encoder=make_encoder('Qwen2'))
    if not kept:
        (path / 'encoder.json').unlink()
    (path / 'chat_template.jinja').write_text("{% for m in messages %}[{{ m['content'] }}]{% endfor %}\x1b[2J")
    encoder = load_encoder(path, 4)
    (message,) = warned()
    assert 'chat_template.jinja' in message
    assert '[What is it?]' in message
    assert repr(encoder.template.text(TALK[:1], True))[1:-1] in message
    assert '\x1b' not in message


def test_a_template_may_be_named(tmp_path, warned):
    path = make_base(tmp_path / 'export', model_config('Qwen2'), 'hf', encoder=make_encoder('Qwen2'))
    for place in ('with', 'without'):
        _, encoder = mmft.load(path, template='chatml_newline')
        assert encoder.template.name == 'chatml_newline', place
        (path / 'encoder.json').unlink(missing_ok=True)
    with pytest.raises(ConfigError, match=r"ends answers with '</s>'[\s\S]*mmft\.load\(path, template="):
        mmft.load(path, template='vicuna_v1')
    with pytest.raises(ConfigError, match='a dict of parts, which has no encoder'):
        mmft.load({'llm': path}, template='qwen2')
    assert not warned()


@pytest.mark.parametrize('layout', ['hf', 'official'])
@pytest.mark.parametrize('tiles', [False, True])
def test_llavas_on_llama_3(layout, tiles, tmp_path, warned):
    """XTuner's llava-llama-3-8b-v1_1 has no system message, LLaVA-NeXT's models have one."""
    config = llava_config('Llama', **({'merge': {'type': 'AnyResMerge'}} if tiles else {}))
    encoder = llava_encoder('Llama', image_processor=ANYRES if tiles else None)
    path = make_base(tmp_path / 'llava', config, layout, encoder=encoder)
    for name in ('encoder.json', 'chat_template.jinja'):
        (path / name).unlink()
    write_llama3(path)
    encoder = load_encoder(path, 4, read_layout(path))
    assert encoder.template.name == ('llava_llama_3' if tiles else 'llama3')
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.chat_template = LLAMA_3
    system = [{'role': 'system', 'content': encoder.template.system_message}] if tiles else []
    for messages in (TALK[:1], TALK, [SYSTEM, *TALK]):
        given = messages if messages[0] is SYSTEM else [*system, *messages]
        theirs = tokenizer.apply_chat_template(given, add_generation_prompt=True)['input_ids']
        assert ids(encoder, messages) == theirs
    vocab = encoder.tokenizer.get_vocab()
    assert encoder.stop_token_ids == [vocab['<|eot_id|>'], vocab['<|end_of_text|>']]
    answer = encoder(TALK[:2]).input_ids[-3:].tolist()
    assert answer[-1] == vocab['<|eot_id|>']
    assert not warned()


def test_junk_in_the_files_of_a_template(tmp_path, warned):
    path = make_base(tmp_path / 'export', model_config('Qwen2'), 'hf', encoder=make_encoder('Qwen2'))
    (path / 'encoder.json').unlink()
    (path / 'chat_template.jinja').unlink()
    for junk in (5, [], {}, [5, {'name': 'default', 'template': 5}], {'default': []}, '{% broken'):
        (path / 'chat_template.json').write_text(json.dumps({'chat_template': junk}))
        assert load_encoder(path, 4).template.name == 'internvl2_5', junk
    (path / 'chat_template.json').write_text('[1')
    (path / 'processor_config.json').write_text(
        json.dumps({'chat_template': [{'name': 'default', 'template': INTERNVL_3}]})
    )
    assert load_encoder(path, 4).template.system_message is None
    assert not [text for text in warned() if 'Traceback' in text]
