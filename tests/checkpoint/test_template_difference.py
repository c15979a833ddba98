"""An ``encoder.template`` that is not the one which the tokenizer's directory comes with is said, and only then."""

from __future__ import annotations

import json
import logging
import shutil

import pytest

from mmft.checkpoint.template_difference import template_difference
from mmft.cli.main import main
from mmft.data import ChatEncoder, load_tokenizer
from mmft.data.text.special_tokens import add_special_tokens
from tests.checkpoint.test_directory_template import INTERNVL_3, LLAVA_15
from tests.engine.tiny import write_tiny
from tests.export.tiny import make_base, make_encoder, model_config
from tests.export.tiny_llava import llava_config, llava_encoder
from tests.helpers import GOLDEN

QWEN_2 = (  # of Qwen/Qwen2-0.5B-Instruct
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + "
    "message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
INTERNLM_2 = (  # of OpenGVLab/InternVL2-2B's tokenizer: InternLM2's own, not InternVL2's
    "{{ bos_token }}{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ZEPHYR = (  # of TinyLlama/TinyLlama-1.1B-Chat-v1.0
    "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + "
    "eos_token }}\n{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}"
    "\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
)
CASES = {  # tokenizer, its chat template, encoder.template -> level (None: nothing to say), words
    'its own': ('qwen2_instruct', QWEN_2, 'qwen2', None, ()),
    'LLaVA ChatML': ('qwen2_instruct', QWEN_2, 'chatml', logging.WARNING, ("'chatml' is not", r'<|im_end|>\n')),
    'InternVL2 ChatML': ('qwen2_instruct', QWEN_2, 'Hermes-2', logging.WARNING, ("'Hermes-2' is not",)),
    'ChatML': ('internlm2', INTERNLM_2, 'chatml_newline', None, ()),
    'another system message': (
        'qwen2_instruct', QWEN_2, {'type': 'qwen2', 'system_message': 'Be kind.'}, logging.INFO,
        ('default system message', 'Be kind.', 'You are a helpful assistant.'),
    ),
    'nothing in common': ('llama_legacy', ZEPHYR, 'vicuna_v1', logging.INFO, ("'vicuna_v1' is not", '<|user|>')),
    'alignment': ('llama_legacy', ZEPHYR, 'plain', None, ()),
    'none': ('llama_legacy', None, 'vicuna_v1', None, ()),
    'broken': ('llama_legacy', '{% broken', 'vicuna_v1', None, ()),
}  # fmt: skip


@pytest.fixture
def directory(tmp_path):
    def make(kind, jinja, place='tokenizer_config.json'):
        path = tmp_path / 'tokenizer'
        shutil.copytree(GOLDEN / 'tokenizers' / kind, path)
        file = path / 'tokenizer_config.json'
        config = json.loads(file.read_text())
        config.pop('chat_template', None)
        if jinja is not None and place == file.name:
            config['chat_template'] = jinja
        elif jinja is not None:
            (path / place).write_text(jinja)
        file.write_text(json.dumps(config))
        return path

    return make


@pytest.mark.parametrize('place', ['tokenizer_config.json', 'chat_template.jinja'])
@pytest.mark.parametrize('name', CASES)
def test_of_a_language_model(name, place, directory):
    kind, jinja, template, level, words = CASES[name]
    path = directory(kind, jinja, place)
    tokenizer = load_tokenizer(path)
    add_special_tokens(tokenizer)
    found, message = template_difference(ChatEncoder(tokenizer, template), path)
    assert bool(message) is (level is not None)
    assert level in (None, found)
    assert [word for word in (*words, str(path)) if level is not None and word not in message] == []
    if name == 'LLaVA ChatML':
        theirs = tokenizer.apply_chat_template(
            [{'role': 'system', 'content': 'Be brief.'}, {'role': 'user', 'content': 'What is it?'}],
            tokenize=True, return_dict=False, chat_template=jinja,
        )  # fmt: skip
        newline = theirs.index(tokenizer.convert_tokens_to_ids('<|im_end|>')) + 1
        assert f'from place {newline} on' in message


def test_published_bases_are_left_in_peace(tmp_path):
    """Their own files say which template they are trained with; their tokenizer's may be the language model's."""
    internvl = make_base(tmp_path / 'InternVL2', model_config('InternLM2'), encoder=make_encoder('InternLM2'))
    llava = make_base(tmp_path / 'llava', llava_config('Llama'), 'hf', encoder=llava_encoder('Llama'))
    for path, jinja in ((internvl, INTERNLM_2), (llava, LLAVA_15)):
        (path / 'encoder.json').unlink()
        (path / 'chat_template.jinja').write_text(jinja)
    assert template_difference(make_encoder('InternLM2'), internvl)[1] == ''
    assert template_difference(llava_encoder('Llama'), llava)[1] == ''
    level, message = template_difference(make_encoder('InternLM2', template='internvl2_5'), internvl)
    assert (level, 'internvl2_5' in message) == (logging.WARNING, True)


def test_an_internvl_of_transformers(tmp_path):
    path = make_base(tmp_path / 'InternVL3', model_config('Qwen2'), 'hf', encoder=make_encoder('Qwen2'))
    (path / 'encoder.json').unlink()
    (path / 'chat_template.jinja').write_text(INTERNVL_3)
    level, message = template_difference(make_encoder('Qwen2', template='internvl2_5'), path)
    assert (level, 'default system message' in message) == (logging.INFO, True)
    assert template_difference(make_encoder('Qwen2', template='chatml_newline'), path)[1] == ''
    assert template_difference(make_encoder('Qwen2'), path)[0] == logging.WARNING


def test_a_run_a_dry_run_and_a_look_at_the_data_say_it(tmp_path, directory, capsys, caplog):
    path = directory('qwen2_instruct', QWEN_2)
    config = write_tiny(tmp_path / 'run')
    options = ['--cfg-options', f'encoder.tokenizer={path}', 'encoder.template=chatml', '+encoder.add_tokens=True',
               'model.llm.vocab_size=2000', 'train_cfg.max_epochs=1', 'val_cfg.max_samples=0']  # fmt: skip
    caplog.set_level(logging.WARNING, 'mmft')
    said = "encoder.template 'chatml' is not the template that"
    main(['train', str(config), '--dry-run', *options])
    assert said in capsys.readouterr().out
    caplog.clear()
    main(['check-data', str(config), *options])
    assert said in caplog.text
    caplog.clear()
    main(['train', str(config), '--work-dir', str(tmp_path / 'work'), *options])
    (log,) = (tmp_path / 'work').glob('*/*.log')
    assert said in log.read_text()
