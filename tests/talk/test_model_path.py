"""What a model may be: the same for every command, and one error for what it is not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import mmft
from mmft.cli.main import main
from mmft.errors import CheckpointError
from mmft.export.model_path import find_target
from tests.export.tiny import LORA, make_base, make_checkpoint, make_encoder, model_config
from tests.helpers import GOLDEN

COMMANDS = {
    'chat': lambda words: ['chat', *words],
    'compare': lambda words: ['compare', 'base', *words, 'val.jsonl'],
    'webui': lambda words: ['webui', *words, '--port', '0'],
    'serve': lambda words: ['serve', *words, '--port', '0'],
    'pth_to_hf': lambda words: ['pth_to_hf', *words, 'out'],
}


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """A base, a run that trained on it, and what a user may name instead of them."""
    root = tmp_path_factory.mktemp('made')
    encoder, config = make_encoder('Qwen2'), model_config('Qwen2')
    base = make_base(root / 'base', config, encoder=encoder)
    cfg = {
        'model': config,
        'pretrained': str(base),
        'tune': LORA,
        'encoder': dict(type='ChatEncoder', template='Hermes-2'),
    }
    run = root / 'work_dirs' / 'food'
    run.mkdir(parents=True)
    for number in (2, 10):
        make_checkpoint(run / f'iter_{number}.pth', cfg, encoder, seed=number)
    (root / 'food.py').write_text('\n'.join(f'{name} = {value!r}' for name, value in cfg.items()))
    (root / 'empty').mkdir()
    (root / 'notes.txt').write_text('x')
    (root / 'above').mkdir()
    (root / 'above' / 'model').symlink_to(base)
    for file in ('a/best.pth', 'a/iter_12.pth', 'b/c/iter_9.pth', 'b/c/iter_3.pth', 'out/config.json'):
        (root / 'runs' / file).parent.mkdir(parents=True, exist_ok=True)
        (root / 'runs' / file).touch()
    (root / 'new_run' / '20261129_034422').mkdir(parents=True)
    (root / 'adapter').mkdir()
    shutil.copy(GOLDEN / 'llava15' / 'config.json', root / 'adapter')
    (root / 'adapter' / 'adapter_model.safetensors').touch()
    (root / 'adapter' / 'adapter_config.json').write_text('{"peft_type": "LORA", "base_model_name_or_path": "gone/x"}')
    (root / 'peft').mkdir()
    (root / 'peft' / 'adapter_config.json').write_text('{"peft_type": "LORA", "base_model_name_or_path": "gone/x"}')
    layer = 'base_model.model.model.language_model.layers.0.self_attn.q_proj'
    lora = {f'{layer}.lora_A.weight': torch.zeros(2, 64), f'{layer}.lora_B.weight': torch.zeros(64, 2)}
    save_file(lora, root / 'peft' / 'adapter_model.safetensors')
    (root / 'foreign').mkdir()
    (root / 'foreign' / 'config.json').write_text('{"architectures": ["BertModel"]}')
    (root / 'lfs').mkdir()
    for file in ('config.json', 'iter_1.pth'):
        (root / 'lfs' / file).write_text('version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n')
    torch.save({'weight': torch.zeros(2)}, root / 'weights.pth')
    (root / 'val.jsonl').write_text(
        json.dumps({'conversations': [{'from': 'human', 'value': 'a'}, {'from': 'gpt', 'value': 'b'}]})
    )
    return root


@pytest.fixture
def opened(made, monkeypatch):
    """What a command would open or write, without opening it."""
    seen = []

    class Stop(Exception):
        pass

    def stop(*arguments, **_):
        seen.append(arguments)
        raise Stop

    def run(arguments):
        seen.clear()
        try:
            return main(arguments)
        except Stop:
            return seen[0]

    monkeypatch.chdir(made)
    monkeypatch.setattr('mmft.talk.local_answerer.LocalAnswerer.__init__', lambda self, *a, **k: stop(*a))
    monkeypatch.setattr('mmft.export.cache.cached_export', stop)
    monkeypatch.setattr('mmft.export.convert', stop)
    return run


TARGETS = {
    'a checkpoint': (['work_dirs/food/iter_2.pth'], 'iter_2.pth'),
    'the folder of a training': (['work_dirs/food'], 'iter_10.pth'),
    'a config and a checkpoint': (['food.py', 'work_dirs/food/iter_2.pth'], 'iter_2.pth'),
    'a config and a folder': (['food.py', 'work_dirs/food'], 'iter_10.pth'),
}


@pytest.mark.parametrize('command', COMMANDS)
@pytest.mark.parametrize('name', TARGETS)
def test_every_command_takes_a_training(opened, made, name, command):
    words, checkpoint = TARGETS[name]
    config, found, *_ = opened(COMMANDS[command](words))
    assert Path(found).name == checkpoint
    assert config['pretrained'] == str(made / 'base')
    assert config['model']['llm']['type'] == 'Qwen2'


@pytest.mark.parametrize('command', COMMANDS)
def test_every_command_takes_a_directory(opened, command):
    found = opened(COMMANDS[command](['base']))[0]
    found = found['pretrained'] if isinstance(found, dict) else found
    assert Path(found) == Path('base')


@pytest.mark.parametrize('command', COMMANDS)
def test_every_command_takes_an_adapter_over_its_base(opened, command):
    found = opened([*COMMANDS[command](['peft']), '--base', 'base'])
    assert found != 1
    assert command == 'compare' or 'peft' in str(found[0])  # which asks its other model first


def test_the_best_checkpoint_of_a_folder_is_taken(made, tmp_path, capsys):
    (tmp_path / 'best.pth').hardlink_to(made / 'work_dirs' / 'food' / 'iter_2.pth')
    config, found = find_target(tmp_path)
    assert found == tmp_path / 'best.pth'
    assert config['pretrained'] == str(made / 'base')
    assert 'best.pth, the best checkpoint' in capsys.readouterr().err


WRONG = {
    # words: what is said, what to do
    'wokr_dirs/food': ('no file of this name', 'did you mean work_dirs/food?'),
    'bsae': ('no file of this name', 'did you mean base?'),
    'OpenGVLab/InternVL2-2B': (
        'name of a model on a hub',
        'hf download OpenGVLab/InternVL2-2B --local-dir pretrained/',
    ),
    'x' * 5000: ('is not a directory', 'check the path'),
    'empty': ('no config.json in empty: the directory is empty', 'download'),
    'work_dirs': ('work_dirs holds 1 training, and no model', 'name one: work_dirs/food (iter_10.pth)'),
    'runs': (
        'runs holds 2 trainings, and no model or checkpoint of its own',
        'name one: runs/a (best.pth), runs/b/c (iter_9.pth), runs/out (a model directory)',
    ),
    'new_run': ('new_run is the folder of a training that has saved no checkpoint', 'up to its first checkpoint'),
    'above': ('no config.json in above', 'did you mean above/model?'),
    'notes.txt': ('is a file, not a model directory', 'name a directory'),
    'base/model.safetensors': ('is a file, not a model directory', 'name the directory that it lies in: base'),
    'food.py': ('food.py is a config', 'name a checkpoint'),
    'weights.pth': ('not a training checkpoint of mmft', 'pass iter_*.pth'),
    'lfs': ('config.json is a git-lfs pointer', 'git lfs pull'),
    'lfs/iter_1.pth': ('iter_1.pth is a git-lfs pointer', 'git lfs pull'),
    'foreign': ("architectures = ['BertModel']", 'mmft reads'),
    'adapter': ("'gone/x'", 'base'),
    'peft': ("'gone/x'", 'base'),
}


@pytest.mark.parametrize('command', COMMANDS)
@pytest.mark.parametrize('word', WRONG, ids=lambda word: word[:30])
def test_every_command_says_the_same_of_what_is_no_model(made, monkeypatch, capsys, word, command):
    monkeypatch.chdir(made)
    assert main(COMMANDS[command]([word])) == 1
    said = capsys.readouterr().err
    what, fix = WRONG[word]
    error = said[said.index('error: ') :]
    assert what in error
    assert fix in error
    assert not Path('out').exists()
    with pytest.raises(mmft.errors.MMFTError) as direct:
        mmft.load(word)
    if 'pth' not in word and '.py' not in word:  # which are a model for a command
        assert error.strip() == f'error: {direct.value}'.strip()


def test_the_config_in_a_checkpoint_of_0_1_is_read_and_not_run(tmp_path):
    evil = "import os\nos.mkdir('planted')\n"
    text = f"{evil}model = dict(type='VLM', n=__import__('os').mkdir('planted'))\npretrained = 'x'"
    meta = {'tune': {}, 'config': text, 'base': None}
    torch.save({'state_dict': {}, 'meta': meta}, tmp_path / 'iter_1.pth')
    (tmp_path / 'evil.py').write_text(evil)
    assert find_target(tmp_path)[0] == {'pretrained': 'x'}
    meta['config'] = 'model = 1 +'
    torch.save({'state_dict': {}, 'meta': meta}, tmp_path / 'iter_1.pth')
    with pytest.raises(CheckpointError, match=r'does not say which model.*\n.*\n.*CONFIG'):
        find_target(tmp_path)


def test_a_checkpoint_becomes_a_directory(made, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(made)
    out = tmp_path / 'out'
    assert main(['pth_to_hf', 'work_dirs/food/iter_2.pth', '--check', 'weights', str(out)]) == 0
    again = tmp_path / 'again'
    assert main(['pth_to_hf', str(out), str(again), '--layout', 'official', '--check', 'weights']) == 0
    first, second = (dict(mmft.load(path)[0].named_parameters()) for path in (out, again))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert main(['pth_to_hf', 'food.py', 'none', str(tmp_path / 'base')]) == 0


@pytest.mark.parametrize(
    'config',
    [
        {'model': 5}, {'model': 'VLM'}, {'model': [1]}, {'model': {1: 2}}, {'model': {None: 1}}, {'model': {'n': (1,)}},
        {'model': {'n': float('inf')}}, {'model': {'n': torch.zeros(1)}}, {'pretrained': 5}, {'pretrained': ['x']},
        {'pretrained': {'llm': 5}}, {'pretrained': {'vision': ['x', 5]}}, {'encoder': 'x', 'pretrained': 'x'},
        {'dtype': ['x'], 'pretrained': 'x'}, {}, [], 5, None, {1: 'x'},
    ],
)  # fmt: skip
def test_a_config_in_a_checkpoint_that_is_none(config, tmp_path):
    meta = {'tune': {}, 'config': config, 'base': None}
    torch.save({'state_dict': {}, 'meta': meta}, tmp_path / 'iter_1.pth')
    with pytest.raises(CheckpointError, match=r'CONFIG|plain JSON'):
        find_target(tmp_path)


@pytest.mark.parametrize(
    'text',
    ['model = 5', "model = 'VLM'", 'model = [1]', 'pretrained = 5', "pretrained = b'x'", "pretrained = ['x']",
     "pretrained = {'llm': 5}", "pretrained = {'vision': ['x', 5]}", "encoder = 'x'\npretrained = 'x'",
     "dtype = ['x']\npretrained = 'x'", "model = {1: 2}", "model = dict(**{'type': 'VLM'})", "model = {None: 1}"],
)  # fmt: skip
def test_a_config_in_a_checkpoint_of_0_1_that_is_none(text, tmp_path):
    meta = {'tune': {}, 'config': text, 'base': None}
    torch.save({'state_dict': {}, 'meta': meta}, tmp_path / 'iter_1.pth')
    with pytest.raises(CheckpointError, match='CONFIG'):
        find_target(tmp_path)


def test_the_base_in_a_checkpoint_that_is_none(tmp_path):
    meta = {'tune': {}, 'base': {'fingerprint': 'x', 'path': {'llm': 5}}}
    torch.save({'state_dict': {}, 'meta': meta}, tmp_path / 'iter_1.pth')
    with pytest.raises(CheckpointError, match=r"says pretrained = \{'llm': 5\}"):
        find_target(tmp_path)
