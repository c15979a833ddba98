"""What the server can be told, and what of it cannot be: all of it at once, before anything is loaded."""

from __future__ import annotations

import pytest

from mmft.cli.main import main
from mmft.errors import ConfigError
from mmft.serve import settings as module
from mmft.serve.backends.choose import Choice
from mmft.serve.settings import ServeSettings, check_fit, check_settings

TRANSFORMERS, TURBOMIND = Choice('transformers', ''), Choice('turbomind', '')
TEXT = {'num_attention_heads': 14, 'num_key_value_heads': 2, 'max_position_embeddings': 2048}


def test_settings():
    with pytest.raises(ConfigError, match='3 problems'):
        check_settings(ServeSettings(tp=0, replicas=0))
    with pytest.raises(ConfigError, match='belong together'):
        check_settings(ServeSettings(config={}))
    with pytest.raises(ConfigError, match='either'):
        check_settings(ServeSettings('food', config={}, checkpoint='x'))
    with pytest.raises(ConfigError, match='no such folder'):
        check_settings(ServeSettings('food', image_root='none'))
    with pytest.raises(ConfigError, match='--replicas N'):
        check_fit(ServeSettings('food', tp=2), TRANSFORMERS)
    check_fit(ServeSettings('food', replicas=2), TRANSFORMERS)
    with pytest.raises(ConfigError, match='needs 4 GPUs'):
        check_fit(ServeSettings('food', tp=2, replicas=2), TURBOMIND)


WRONG = {
    'port': (70000, '--port 70000: expected 0'),
    'start_timeout': (-1, '--start-timeout -1'),
    'device': ('gpu', '--device gpu: expected auto, cpu or cuda'),
    'dtype': ('floaty', '--dtype floaty'),
    'model_name': ('', '--model-name is empty'),
    'api_keys': (('good', ''), 'is the variable set'),
}


@pytest.mark.parametrize('name', WRONG)
def test_what_cannot_be(name):
    value, words = WRONG[name]
    with pytest.raises(ConfigError, match=words):
        check_settings(ServeSettings('food', **{name: value}))


@pytest.mark.parametrize('key', ['', ' ', 'secret ', '\tsecret', 'schlüssel', 'se\ncret'])
def test_keys_that_no_header_can_carry(key):
    with pytest.raises(ConfigError, match='MMFT_API_KEY') as error:
        check_settings(ServeSettings('food', api_keys=(key,)))
    assert 'secret' not in str(error.value)
    check_settings(ServeSettings('food', api_keys=('sk-0 9~',)))


@pytest.mark.parametrize('given', [['--api-key', ''], []])
def test_an_empty_variable_opens_no_server(monkeypatch, capsys, given):
    monkeypatch.delenv('MMFT_API_KEY', raising=False)
    if not given:
        monkeypatch.setenv('MMFT_API_KEY', '')
    assert main(['serve', 'food', *given]) == 1
    assert 'is the variable set' in capsys.readouterr().err


@pytest.mark.parametrize('section', ['text_config', 'llm_config'])
def test_what_the_model_cannot_follow(monkeypatch, section):
    monkeypatch.setattr(module, 'gpu_count', lambda: 8)
    check_fit(ServeSettings('food', tp=2, session_len=2048), TURBOMIND, {section: TEXT})
    with pytest.raises(ConfigError, match=r'(?s)2 problems.*--tp 4.*14 \(2 of.*--session-len 2049.*at most 2048'):
        check_fit(ServeSettings('food', tp=4, session_len=2049), TURBOMIND, {section: TEXT})
    # LMDeploy's engines put one head of keys and values on several GPUs where there are too few.
    check_fit(ServeSettings('food', tp=4), TURBOMIND, {section: {**TEXT, 'num_attention_heads': 12}})
    scaled = {**TEXT, 'rope_scaling': {'type': 'dynamic', 'factor': 2.0}}
    check_fit(ServeSettings('food', session_len=4096), TURBOMIND, {section: scaled})
    plain = {**TEXT, 'rope_parameters': {'rope_type': 'default', 'rope_theta': 1e6}}
    with pytest.raises(ConfigError, match='at most 2048'):
        check_fit(ServeSettings('food', session_len=4096), TURBOMIND, {section: plain})
    with pytest.raises(ConfigError, match='float32'):
        check_fit(ServeSettings('food', dtype='float32'), TURBOMIND)
    monkeypatch.setattr(module, 'gpu_count', lambda: 0)
    with pytest.raises(ConfigError, match='no CUDA device'):
        check_fit(ServeSettings('food', device='cuda'), TRANSFORMERS)
