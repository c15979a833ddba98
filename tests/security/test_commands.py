"""A stranger's directories and checkpoints through every command that opens models: nothing in them runs."""

from __future__ import annotations

import copy
import io
import itertools
import json
import os
import shutil
import sys

import pytest
import torch

import mmft
from mmft.cli.main import main
from mmft.errors import MMFTError
from mmft.json_files import read_json
from tests.engine.tiny import write_tiny
from tests.security.planted import MODEL, MODULE, PROGRAM, watched, write_module, write_native

EVIL = {'type': 'subprocess.Popen', **PROGRAM}
PLACES = {
    'the tower': lambda model: {**model, 'vision': EVIL},
    'the model': lambda model: EVIL,
    'a class': lambda model: {**model, 'projector': {'type': f'{MODULE}.Part'}},
    'a scope': lambda model: {**model, 'projector': {**model['projector'], '_scope_': MODULE}},
}
OPENING = {
    'chat': ['chat', '{model}'],
    'compare': [
        'compare',
        '{model}',
        '{good}',
        '{data}',
        '--out',
        '{out}.html',
        '--limit',
        '1',
        '--max-new-tokens',
        '1',
    ],
    'compare, second': [
        'compare',
        '{good}',
        '{model}',
        '{data}',
        '--out',
        '{out}.html',
        '--limit',
        '1',
        '--max-new-tokens',
        '1',
    ],
    'webui': ['webui', '{model}', '--port', '0'],
    'serve': ['serve', '{model}', '--port', '0'],
}
DIRECTORIES = {
    **OPENING,
    'pth_to_hf': ['pth_to_hf', '{model}', '{out}'],
    'pth_to_hf, base': ['pth_to_hf', '{config}', 'none', '{out}', '--cfg-options', 'pretrained={model}'],
    'pretrained': ['train', '{config}', '--work-dir', '{out}', '--cfg-options', 'pretrained={model}'],
    'pretrained, dry run': ['train', '{config}', '--dry-run', '--cfg-options', 'pretrained={model}'],
    'a part of pretrained': ['train', '{config}', '--work-dir', '{out}', '--cfg-options',
                             'pretrained=dict(vision="{model}")'],
    'init_from': ['train', '{config}', '--work-dir', '{out}', '--cfg-options', '+init_from={model}'],
}  # fmt: skip
CHECKPOINTS = {
    **OPENING,
    'chat CONFIG CKPT': ['chat', '{config}', '{model}'],
    'pth_to_hf': ['pth_to_hf', '{config}', '{model}', '{out}', '--layout', 'native', '--check', 'none'],
    'pth_to_hf CKPT': ['pth_to_hf', '{model}', '{out}'],
    'init_from': ['train', '{config}', '--work-dir', '{out}', '--cfg-options', '+init_from={model}'],
    'resume': ['train', '{config}', '--work-dir', '{out}', '--resume', '{model}'],
}  # fmt: skip


def spoil_encoder(content):
    content['encoder']['image_processor'] = EVIL


def spoil_template(content):
    content['encoder']['template'] = {'type': f'{MODULE}.run'}


def spoil_class(content):
    content['encoder']['type'] = f'{MODULE}.Part'


def spoil_code(content):
    content['meta']['code'] = content['encoder']['code'] = [MODULE]


def spoil_config(content):
    config = content['meta']['config']
    config['model']['projector']['type'] = f'{MODULE}.Part'
    config['custom_imports'] = {'imports': [MODULE]}


def spoil_config_of_0_1(content):
    spoil_config(content)
    text = '\n'.join(f'{name} = {value!r}' for name, value in content['meta']['config'].items())
    content['meta']['config'] = f'import {MODULE}\n{text}'


SPOILT = [spoil_encoder, spoil_template, spoil_class, spoil_code, spoil_config, spoil_config_of_0_1]


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    """A config, a good directory and a good checkpoint of it, and a module that nobody asked for."""
    root = tmp_path_factory.mktemp('place')
    write_module(root)
    sys.path.insert(0, str(root))
    config = write_tiny(root)
    text = config.read_text().replace('train_cfg = dict(max_epochs=2)', 'train_cfg = dict(max_iters=1)')
    config.write_text(text + 'val_dataloader = None\nval_cfg = None\n')
    write_native(root / 'good', MODEL)
    assert main(['train', str(config), '--work-dir', str(root / 'run')]) == 0
    yield root
    sys.path.remove(str(root))


def run(place, command, model, capfd, named=False):
    """The status of a command and what it said."""
    shutil.rmtree(place / 'out', ignore_errors=True)
    words = {'model': model, 'config': place / 'tiny.py', 'good': place / 'good', 'data': place / 'data' / 'val.jsonl',
             'out': place / 'out'}  # fmt: skip
    capfd.readouterr()
    with watched(named):
        status = main([word.format(**words) for word in command])
    return status, ''.join(capfd.readouterr())


def every(commands, changes):
    """Every change through the first command, and each other command with one of them."""
    first, *others = commands
    return [*((first, change) for change in changes), *zip(others, itertools.cycle(changes), strict=False)]


@pytest.mark.parametrize(('command', 'change'), every(DIRECTORIES, PLACES))
def test_a_directory(command, change, place, tmp_path, capfd):
    folder = write_native(tmp_path / 'evil', MODEL)
    config = read_json(folder / 'config.json')
    config['model'] = PLACES[change](copy.deepcopy(MODEL))
    (folder / 'config.json').write_text(json.dumps(config))
    status, said = run(place, DIRECTORIES[command], folder, capfd, named='train' in DIRECTORIES[command])
    assert status == 1 or 'dry run' in command
    assert 'is named' in said or '_scope_' in said or 'model' in said


@pytest.mark.parametrize('command', ['chat', 'compare', 'webui'])
def test_the_encoder_of_a_directory(command, place, tmp_path, capfd):
    folder = write_native(tmp_path / 'evil', MODEL)
    encoder = read_json(folder / 'encoder.json')
    (folder / 'encoder.json').write_text(json.dumps({**encoder, 'image_processor': EVIL}))
    status, said = run(place, OPENING[command], folder, capfd)
    assert (status, "no image processor is named 'subprocess.Popen'" in said) == (1, True)


@pytest.mark.parametrize(('command', 'spoil'), every(CHECKPOINTS, SPOILT))
def test_a_checkpoint(command, spoil, place, tmp_path, capfd):
    content = torch.load(place / 'run' / 'iter_1.pth', weights_only=True)
    spoil(content)
    torch.save(content, tmp_path / 'iter_1.pth')
    training = command in ('init_from', 'resume')  # which read tensors and numbers alone
    status, said = run(place, CHECKPOINTS[command], tmp_path / 'iter_1.pth', capfd, named=training)
    assert status == (0 if training else 1)
    assert spoil is not spoil_code or training or f'--allow-code {MODULE}' in said


@pytest.mark.parametrize('command', CHECKPOINTS)
def test_a_pickle_runs_nowhere(command, place, tmp_path, capfd):
    class Evil:
        def __reduce__(self):
            return (os.system, ('touch zzplanted-has-run',))

    torch.save({'state_dict': {}, 'meta': {'tune': {}, 'x': Evil()}, 'encoder': None}, tmp_path / 'iter_1.pth')
    status, said = run(place, CHECKPOINTS[command], tmp_path / 'iter_1.pth', capfd, named=True)
    assert (status, 'weights_only' in said) == (1, False)
    assert 'system' in said


def test_configs_in_the_folder_of_a_training_are_not_run(place, tmp_path, capfd, monkeypatch):
    """The folder may come from a stranger, its config with it; the checkpoint says what is needed, as data."""
    shutil.copytree(place / 'run', tmp_path / 'run')
    (tmp_path / 'run' / 'tiny.py').write_text(f'import {MODULE}\n1 / 0\n')
    monkeypatch.setattr('sys.stdin', io.StringIO('What?\n'))
    status, _ = run(place, ['chat', '{model}', '--max-new-tokens', '2'], tmp_path / 'run', capfd)
    assert status == 0


def test_only_modules_of_ones_own_can_be_allowed(place):
    with pytest.raises(MMFTError, match='a module of your own'), watched():
        mmft.load(place / 'good', allow_code=['subprocess'])
