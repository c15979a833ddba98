"""Checkpoints of mmft 0.1, which hold their config as Python text, are exported, resumed and taken by init_from.

``golden/checkpoint_0_1`` was written by 0.1's own code (commit 6a70883): one step of LoRA on a tiny model, in
whose config classes stand at ``type``; and the logits that 0.1's native export gave.
"""

from __future__ import annotations

import pytest
import torch

import mmft
from mmft.checkpoint.config_0_1 import config_of_0_1
from mmft.cli.main import main
from mmft.engine.run_folder import read_checkpoint
from mmft.errors import CheckpointError
from mmft.export import convert
from mmft.export.gate import logits_of
from mmft.export.model_path import stored_config
from mmft.plain_json import is_json
from tests.export.tiny import picture
from tests.helpers import golden_bytes, golden_json


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp('of_0_1') / 'iter_1.pth'
    path.write_bytes(golden_bytes('checkpoint_0_1', 'iter_1.pth'))
    return path


def test_it_is_text_in_the_file_and_todays_form_when_read(checkpoint):
    assert "type='mmft.models.vlm.VLM'" in torch.load(checkpoint, weights_only=True)['meta']['config']
    config = read_checkpoint(checkpoint)['meta']['config']
    assert is_json(config)
    assert config['model']['type'] == 'VLM'
    assert config['model']['projector'] == {'scale': 0.5, 'type': 'PixelShuffleMLP', 'version': 'v2'}
    assert config['optim_wrapper']['paramwise_cfg'] == {'parts': {'projector': {'lr': 0.002}}}
    assert stored_config(checkpoint)['encoder']['template'] == 'internlm2-chat'


@pytest.mark.parametrize('layout', ['hf', 'native'])
def test_it_is_exported_by_its_path_alone(checkpoint, tmp_path, layout):
    assert main(['pth_to_hf', str(checkpoint), str(tmp_path / 'out'), '--layout', layout, '--check', 'full']) == 0
    model, encoder = mmft.load(tmp_path / 'out')
    sample = encoder.prompt('What dish is it?', [picture()])
    expected = golden_json('checkpoint_0_1', 'expected.json')
    assert sample.input_ids.tolist() == expected['input_ids']
    found = logits_of(model.float(), sample)[-1, : len(expected['logits'])]
    assert (found - torch.tensor(expected['logits'])).abs().max() < 1e-5


def test_a_config_is_checked_against_it(checkpoint, tmp_path):
    config = stored_config(checkpoint)
    convert(config, checkpoint, tmp_path / 'out', check='none')
    config['model'] = {**config['model'], 'llm': {**config['model']['llm'], 'num_attention_heads': 4}}
    with pytest.raises(CheckpointError, match=r'num_attention_heads: 2 in training, 4 in the config'):
        convert(config, checkpoint, tmp_path / 'other', check='none')


SMALLER = {
    'num_hidden_layers=2': 'num_hidden_layers=1',
    'hidden_size=32': 'hidden_size=8',
    'intermediate_size=48': 'intermediate_size=16',
    'num_key_value_heads=1': 'num_key_value_heads=1, tie_word_embeddings=True',
}


def test_a_run_starts_from_it_and_continues_it(checkpoint, tmp_path, capfd):
    from tests.engine.tiny import write_tiny

    path = write_tiny(tmp_path)
    text = path.read_text()
    for old, new in SMALLER.items():
        text = text.replace(old, new)
    path.write_text(text + 'val_dataloader = None\nval_cfg = None\n')
    before = torch.load(checkpoint, weights_only=True)
    run = ['train', str(path), '--work-dir', str(tmp_path / 'run'), '--cfg-options']
    assert main([*run, f'init_from={checkpoint}', 'train_cfg=dict(max_iters=1)']) == 0
    after = torch.load(tmp_path / 'run' / 'iter_1.pth', weights_only=True)
    assert is_json(after['meta']['config'])
    assert after['meta']['config']['model']['llm']['tie_word_embeddings'] is True
    for name, tensor in before['state_dict'].items():
        moved = (tensor - after['state_dict'][name]).abs().max()
        assert moved == 0 if name in before['meta']['initialised'] else moved < 5e-3
    capfd.readouterr()
    again = ['train', str(path), '--work-dir', str(tmp_path / 'again'), '--resume', str(checkpoint)]
    assert main([*again, '--cfg-options', 'train_cfg=dict(max_iters=2)']) == 0
    said = ''.join(capfd.readouterr())
    assert 'the config is not the one of the checkpoint' in said
    assert 'train_cfg.max_iters: 1 in the checkpoint, 2 now' in said
    assert 'work_dir:' not in said
    assert 'model.' not in said.partition('is not the one of the checkpoint')[2].partition('resumed')[0]


TEXTS = {
    'a = ' + '(' * 10**5: {},
    "a = [1, (2, -3)]\nb = dict(c={'d': None})": {'a': [1, [2, -3]], 'b': {'c': {'d': None}}},
    "a = 2 * b\nimport os\nc = __import__('os')\nd = f(1)\ne = 'x'": {'e': 'x'},
    'a = dict(**b)\nmodel = {1: 2}\nd = {**a}\na.b = 3\n(e, f) = (1, 2)\ng = {[]: 1}': {},
    'optim_wrapper = dict(max_norm=inf, n={1: 2})\nmodel = dict(n=nan)': {
        'optim_wrapper': {'max_norm': 'inf', 'n': {'1': 2}}
    },
    "model = dict(type='mmft.models.vlm.VLM', sub=[dict(type='os.system')])": {
        'model': {'type': 'VLM', 'sub': [{'type': 'os.system'}]}
    },
    "model = dict(n=b'x')\nencoder = dict(n={1})\ntrain_cfg = dict(n=b'x')": {'train_cfg': {'n': "b'x'"}},
    'model = 1 +': {},
}


@pytest.mark.parametrize('text', TEXTS, ids=lambda text: text[:20])
def test_the_text_is_data(text):
    assert config_of_0_1(text) == TEXTS[text]
