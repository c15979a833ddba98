"""Directories with one thing wrong each: it is named, with what to do, for the engines that it stops."""

from __future__ import annotations

import json
import random
import shutil
import struct

import pytest
import torch
from safetensors.torch import save_file

from mmft.errors import ConfigError
from mmft.export import convert
from mmft.serve.backends.choose import choose_backend
from mmft.serve.backends.directory_check import ENGINES, check_directory, needs_export, served_as_it_is
from tests.checkpoint.test_junk import json_files, spoilt
from tests.export.tiny import LORA, make_base, make_checkpoint, make_encoder, model_config
from tests.helpers import GOLDEN
from tests.serve.served import STAND_INS

ALL, LMDEPLOY, TRANSFORMERS = set(ENGINES), {'turbomind', 'pytorch'}, {'transformers'}


@pytest.fixture(scope='module')
def exports(tmp_path_factory):
    """An InternVL export in two shards, and a LLaVA directory of small files as llava-hf's."""
    root = tmp_path_factory.mktemp('exports')
    encoder, config = make_encoder(), model_config()
    cfg = {'model': config, 'pretrained': str(make_base(root / 'base', config, encoder=encoder)), 'tune': LORA}
    path, _ = make_checkpoint(root / 'iter_1.pth', cfg, encoder)
    convert(cfg, path, root / 'food', check='none', max_shard_size='200KB')
    convert(cfg, path, root / 'adapter', check='none', adapter=True)
    llava = root / 'lion'
    shutil.copytree(root / 'food', llava, ignore=shutil.ignore_patterns('model*', 'encoder.json'))
    text = {'architectures': ['LlamaForCausalLM'], 'eos_token_id': 2, 'max_position_embeddings': 512}
    write(llava, 'config.json', {
        'architectures': ['LlavaForConditionalGeneration'], 'pad_token_id': 7, 'text_config': text,
        'vision_config': {'model_type': 'clip_vision_model'},
    })  # fmt: skip
    save_file({'vision_tower.vision_model.embeddings.x': torch.zeros(2)}, llava / 'model.safetensors')
    return root


def write(directory, name, content):
    (directory / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding='utf-8')


def change(directory, name, **keys):
    content = json.loads((directory / name).read_text(encoding='utf-8'))
    for key, value in keys.items():
        node, *last = key.split('__')
        (content.setdefault(node, {}).__setitem__(last[0], value)) if last else content.__setitem__(node, value)
    write(directory, name, content)


def remove(*names):
    return lambda d: [file.unlink() for name in names for file in d.glob(name)]


def cut(directory):
    shard = sorted(directory.glob('model-*.safetensors'))[0]
    shard.write_bytes(shard.read_bytes()[:-10])


def something_large(directory):
    with open(directory / 'model.safetensors', 'wb') as stream:  # which would be read whole
        stream.write(struct.pack('<Q', 1 << 30))
        stream.truncate(2 << 30)


def another_shard(directory):
    first, second = sorted(directory.glob('model-*.safetensors'))[:2]
    shutil.copy(first, second)


LISTS_ONLY = (
    "{% for m in messages %}{% for p in m['content'] %}{{ p['text'] if p['type'] == 'text' else '<image>' }}"
    '{% endfor %}{% endfor %}'
)
STRINGS_ONLY = "{% for m in messages %}{{ 'USER: ' + m['content'] }}{% endfor %}"
NO_PICTURE = (
    "{% for m in messages %}{% for p in m['content'] if p['type'] == 'text' %}{{ p['text'] }}{% endfor %}{% endfor %}"
)

WRONG = {
    # name: (directory, what is done to it, what is said, what to do, who is stopped)
    'no config': ('food', remove('config.json'), 'no config.json', 'name the directory', ALL),
    'broken config': ('food', lambda d: write(d, 'config.json', '{'), 'not valid JSON', 'again', ALL),
    'a foreign class': (
        'food', lambda d: change(d, 'config.json', architectures=['BertModel']), 'BertModel', 'serve one of', ALL,
    ),
    'no class': ('food', lambda d: change(d, 'config.json', architectures=None), 'names nothing', 'serve one of', ALL),
    'no weights': ('food', remove('model*'), 'no weights', '--config and --checkpoint', ALL),
    'a missing shard': ('food', remove('model-00002*'), '1 of 6 shards is missing: model-00002', 'download', ALL),
    'a cut shard': ('food', cut, 'is cut off', 'download', ALL),
    'a mixed-up shard': ('food', another_shard, 'not in their shards', 'different exports', ALL),
    'a broken index': ('food', lambda d: write(d, 'model.safetensors.index.json', '[]'), 'not an index', 'again', ALL),
    'git-lfs': ('lion', lambda d: write(d, 'model.safetensors', 'version https://git-lfs'), 'git-lfs', 'pull', ALL),
    'an empty file': ('lion', lambda d: write(d, 'model.safetensors', ''), 'cut off (0 bytes)', 'again', ALL),
    'no safetensors': ('lion', lambda d: write(d, 'model.safetensors', 'x' * 500), 'not a safetensors', 'again', ALL),
    'something large': ('lion', something_large, 'not a safetensors', 'again', ALL),
    'no tokenizer': ('food', remove('tokenizer.*', 'vocab*'), 'no tokenizer', 'copy', ALL),
    'no template': ('food', remove('chat_template.jinja'), 'no chat template', 'pth_to_hf', ALL),
    'no processor': ('food', remove('*processor_config.json'), 'no preprocessor_config.json', 'pth_to_hf', ALL),
    'no picture tokens': (
        'food', lambda d: change(d, 'tokenizer_config.json', extra_special_tokens={'video_token': '<video>'}),
        'no start_image_token, end_image_token, context_image_token', '<IMG_CONTEXT>', ALL,
    ),
    'no class of the text': (
        'food', lambda d: change(d, 'config.json', text_config__architectures=None),
        'text_config.architectures is missing', 'LlamaForCausalLM', LMDEPLOY,
    ),
    'a template for strings': (
        'food', lambda d: write(d, 'chat_template.jinja', STRINGS_ONLY), 'a list of parts', 'pth_to_hf', TRANSFORMERS,
    ),
    'a template without pictures': (
        'food', lambda d: write(d, 'chat_template.jinja', NO_PICTURE), 'no place for a', 'pth_to_hf', TRANSFORMERS,
    ),
    'a template for lists': (
        'lion', lambda d: write(d, 'chat_template.jinja', LISTS_ONLY), 'plain text', 'pth_to_hf', LMDEPLOY,
    ),
    'pad is end': (
        'lion', lambda d: change(d, 'config.json', pad_token_id=2), 'pad_token_id is 2', 'id of a token', LMDEPLOY,
    ),
    'the tower as transformers 5 writes it': (
        'lion', lambda d: save_file({'vision_tower.embeddings.x': torch.zeros(2)}, d / 'model.safetensors'),
        'vision_tower.embeddings.x', 'pth_to_hf', LMDEPLOY,
    ),
}  # fmt: skip


def served(exports, tmp_path, name):
    target = tmp_path / name
    shutil.copytree(exports / name, target)
    return target


@pytest.mark.parametrize('name', ['food', 'lion'])
def test_a_good_directory(exports, tmp_path, name):
    assert [problem for problem in check_directory(served(exports, tmp_path, name)) if problem.stops] == []


@pytest.mark.parametrize('name', WRONG)
def test_what_is_wrong_is_named(exports, tmp_path, name):
    directory, spoil, what, fix, stops = WRONG[name]
    path = served(exports, tmp_path, directory)
    spoil(path)
    found = [problem for problem in check_directory(path) if problem.stops]
    assert len(found) == 1, [str(problem) for problem in found]
    assert what in found[0].what
    assert fix in found[0].fix
    assert found[0].stops == stops
    if 'transformers' in stops:
        with pytest.raises(ConfigError, match='cannot'):
            choose_backend(path, gpus=0)


def test_the_name_that_changes_the_template(exports, tmp_path):
    path = tmp_path / 'llava-v1.5-mine'
    shutil.copytree(exports / 'food', path)
    [problem] = [problem for problem in check_directory(path) if problem.stops]
    assert ('rename' in problem.fix, problem.stops) == (True, LMDEPLOY)


def test_an_adapter_only(exports):
    [problem] = check_directory(exports / 'adapter')
    assert 'a LoRA adapter only' in problem.what
    assert '--config CONFIG --checkpoint CKPT' in problem.fix


def test_what_is_no_directory(exports):
    [problem] = check_directory(exports / 'iter_1.pth')
    assert '--checkpoint FILE' in problem.fix
    [problem] = check_directory(exports / 'none')
    assert 'there is no directory' in problem.what
    [problem] = check_directory(exports)
    assert 'did you mean' in problem.fix


def test_layouts_that_are_exported_first(exports, tmp_path):
    encoder, config = make_encoder(), model_config()
    native = make_base(tmp_path / 'native', config, layout='native', encoder=encoder)
    assert needs_export(native)
    assert 'exports it first' in check_directory(native)[0].fix
    assert not needs_export(exports / 'food')
    assert not needs_export(exports / 'adapter')
    # TinyLLaVA Factory's LoRA runs: an adapter beside the weights that it is over.
    shutil.copytree(GOLDEN / 'llava15', tmp_path / 'factory')
    (tmp_path / 'factory' / 'adapter_config.json').write_text('{}')
    assert not needs_export(tmp_path / 'factory')
    (tmp_path / 'factory' / 'language_model').mkdir()
    (tmp_path / 'factory' / 'model.safetensors').rename(tmp_path / 'factory' / 'language_model' / 'pytorch_model.bin')
    assert needs_export(tmp_path / 'factory')


@pytest.mark.parametrize('weights', ['model.safetensors', 'model.safetensors.index.json'])
def test_an_adapter_beside_whole_weights_is_not_for_a_backend(weights, exports, tmp_path):
    """transformers would load the base that it names in their place, and PEFT import its ``megatron_core``."""
    folder = tmp_path / 'food'
    shutil.copytree(exports / 'food', folder)
    (folder / weights).touch()
    assert served_as_it_is(folder)
    adapter = {'base_model_name_or_path': 'x', 'megatron_config': {}, 'megatron_core': 'zzplanted'}
    (folder / 'adapter_config.json').write_text(json.dumps(adapter))
    assert not served_as_it_is(folder)


ORIGINAL = {
    # name: (what is done to it, what is said, what to do)
    'none of its files': (remove('*.py'), 'no configuration_internvl_chat.py, configuration_intern_vit', 'copy'),
    'no file of the text': (remove('*internlm2.py'), 'no configuration_internlm2.py:', 'copy them'),
    'no map': (lambda d: change(d, 'config.json', auto_map=None), 'no auto_map', 'published'),
    'no sizes': (
        lambda d: change(d, 'config.json', force_image_size=None, downsample_ratio=None),
        'config.json: no force_image_size, downsample_ratio', 'published',
    ),
    'no size of the tower': (
        lambda d: change(d, 'config.json', vision_config__image_size=None), 'vision_config has no image_size', 'publ',
    ),
    'no end': (lambda d: change(d, 'config.json', llm_config__eos_token_id=None), 'llm_config has no eos', 'published'),
    'no place for pictures': (
        lambda d: [file.write_text(file.read_text().replace('<IMG_CONTEXT>', '<X>')) for file in d.glob('*token*')],
        'no <IMG_CONTEXT>', 'copy the tokenizer',
    ),
}  # fmt: skip


@pytest.fixture
def original(exports, tmp_path):
    path = served(exports, tmp_path, 'base')
    for file in STAND_INS.glob('*.py'):
        shutil.copy(file, path)
    return path


def test_a_good_original_internvl2(original):
    assert [problem for problem in check_directory(original) if problem.stops] == []


@pytest.mark.parametrize('name', ORIGINAL)
def test_what_is_wrong_with_an_original_internvl2(original, name):
    spoil, what, fix = ORIGINAL[name]
    spoil(original)
    [found] = [problem for problem in check_directory(original) if problem.stops]
    assert (what in found.what, fix in found.fix, found.stops) == (True, True, LMDEPLOY), found


@pytest.mark.parametrize('seed', range(40))
def test_spoilt_files_are_a_problem_or_none(exports, tmp_path, seed):
    chance = random.Random(seed)
    made = served(exports, tmp_path, chance.choice(['food', 'lion']))
    file = chance.choice([file for file in json_files(made) if file.name != 'tokenizer.json'])
    file.write_text(json.dumps(spoilt(json.loads(file.read_text()), chance)))
    assert all(problem.what for problem in check_directory(made))


def test_a_list_in_the_place_of_a_section(exports, tmp_path):
    made = served(exports, tmp_path, 'food')
    change(made, 'config.json', text_config=['x'])
    [problem] = check_directory(made)
    assert 'one of its JSON files cannot be read' in problem.what
