"""Which models a command line names, and which server is shown which key."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch

from mmft.cli.chat import add_answering, add_models, key_for, models_of
from mmft.errors import ConfigError, MMFTError

HERE, THERE = 'http://127.0.0.1:8000', 'https://models.example.com/v1'


@pytest.fixture(autouse=True)
def own_key(monkeypatch):
    """The key of this machine's server, in the environment."""
    monkeypatch.setenv('MMFT_API_KEY', 'own')


@pytest.fixture
def config(tmp_path):
    path = tmp_path / 'food.py'
    path.write_text("model = dict(type='VLM')\n")
    return str(path)


def models(named, *options, counts=(1, 2)):
    parser = argparse.ArgumentParser()
    parser.add_argument('--names', nargs='+')
    add_answering(parser, 9)
    add_models(parser)
    return models_of(parser.parse_args(list(options)), named, counts)


@pytest.mark.parametrize('url', [HERE, 'http://localhost:1/v1', 'http://[::1]:8000', 'HTTP://127.0.0.5'])
def test_the_key_in_the_environment_is_sent_to_this_machine(url):
    assert key_for(url, None) == 'own'
    assert key_for(url, '-') is None
    assert key_for(url, 'other') == 'other'


@pytest.mark.parametrize(
    'url',
    [THERE, 'http://10.0.0.7:8000', 'http://127.0.0.1.example.com', 'http://127.0.0.1@example.com', 'http://[::1'],
)
def test_and_to_no_other(url):
    assert key_for(url, None) is None
    assert key_for(url, 'its own') == 'its own'


def test_a_directory_is_shown_no_key():
    assert key_for('exported/food', 'secret') is None
    assert key_for(({}, 'iter_1.pth'), None) is None


def test_a_key_from_a_file(tmp_path):
    file = tmp_path / 'key'
    file.write_text('secret\n')
    assert key_for(THERE, f'@{file}') == 'secret'
    file.write_text('\n')
    with pytest.raises(ConfigError, match=r'0 words\n.*one line, the key'):
        key_for(THERE, f'@{file}')
    with pytest.raises(ConfigError, match='a file with a key'):
        key_for(THERE, f'@{tmp_path / "none"}')


def test_each_server_gets_its_own_key():
    def keys(*options):
        return [options['api_key'] for _, options in models([HERE, THERE], *options)]

    assert keys() == ['own', None]
    assert keys('--api-key', 'both') == ['both', 'both']
    assert keys('--api-keys', 'a', 'b') == ['a', 'b']
    assert keys('--api-keys', '-', 'b', '--api-key', 'c') == [None, 'b']


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / 'iter_1.pth'
    meta = {
        'tune': {},
        'base': {'path': 'there', 'fingerprint': ''},
        'config': "model = dict(type='VLM')\nwork_dir = 1 + 1",
    }
    torch.save({'state_dict': {}, 'meta': meta}, path)
    return str(path)


def test_a_checkpoint_brings_its_config(config, checkpoint, tmp_path):
    (first, options), (last, same) = models([str(tmp_path), checkpoint], '--config', config, '--dtype', 'x')
    assert first[1] == tmp_path / 'iter_1.pth'  # a folder with it is its training's
    assert (last[0].model, last[1]) == ({'type': 'VLM'}, Path(checkpoint))
    assert options == same == {'base': None, 'device': None, 'dtype': 'x', 'model': None, 'api_key': None}
    ((found, _),) = models([checkpoint])
    # A plain dict: code that a stored config names is not the user's own.
    assert found == ({'model': {'type': 'VLM'}, 'pretrained': 'there'}, Path(checkpoint))
    ((found, _),) = models([checkpoint], '--cfg-options', 'pretrained=moved')
    assert found[0]['pretrained'] == 'moved'
    ((found, _),) = models([config, checkpoint])
    assert (found[0].model, found[1]) == ({'type': 'VLM'}, Path(checkpoint))


def test_models_of_servers():
    assert [options['model'] for _, options in models([HERE, THERE], '--models', '-', 'b')] == [None, 'b']


@pytest.mark.parametrize(
    ('named', 'options', 'what'),
    [
        ([], [], '0 models\n.*one or two'),
        (['a', 'b', 'c'], [], '3 models'),
        (['a'], ['--config', 'x'], '--config x without a checkpoint'),
        (['nowhere/iter_1.pth'], [], 'no file of this name'),
        (['food.py'], [], r'food.py is a config, not a model\n.*CONFIG CKPT'),
        (['a', 'b'], ['--models', 'x'], r'1 --models: x\n.*2, one for each model'),
        (['a', 'b'], ['--names', 'x'], '1 --names'),
        (['a', 'b'], ['--api-keys', 'secret'], r'1 --api-keys: \.\.\.\n'),
    ],
)
def test_what_does_not_fit_is_refused(named, options, what):
    with pytest.raises(MMFTError, match=what):
        models(named, *options)
