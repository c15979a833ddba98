"""Which backend is taken, how it is started, and the cache of exports."""

from __future__ import annotations

import json
import os

import pytest

from mmft.errors import ConfigError
from mmft.export.cache import cached_export
from mmft.serve.backends import choose as module
from mmft.serve.backends.choose import choose_backend, devices, lmdeploy_command, proxy_command, transformers_command
from mmft.serve.backends.directory_check import Problem
from mmft.serve.backends.servable import servable
from mmft.serve.settings import ServeSettings
from tests.export.tiny import LORA, make_base, make_checkpoint, make_encoder, model_config

HF, LLAVA, NEXT = (f'{name}ForConditionalGeneration' for name in ('InternVL', 'Llava', 'LlavaNext'))


def directory(path, architecture, text, tower='clip_vision_model', **more):
    config = {'architectures': [architecture], 'vision_config': {'model_type': tower}, **more}
    config['llm_config' if architecture == 'InternVLChatModel' else 'text_config'] = {'architectures': [text]}
    (path / 'config.json').write_text(json.dumps(config))
    return path


@pytest.mark.parametrize(
    ('architecture', 'text', 'more', 'gpus', 'name', 'words'),
    [
        (HF, 'LlamaForCausalLM', {}, 1, 'turbomind', 'there is a GPU'),
        (HF, 'Qwen2ForCausalLM', {}, 2, 'turbomind', '2 GPUs'),
        (HF, 'Phi3ForCausalLM', {}, 1, 'pytorch', 'no Phi3'),  # LMDeploy itself would take TurboMind
        (HF, 'LlamaForCausalLM', {}, 0, 'transformers', 'no CUDA device'),
        (LLAVA, 'LlamaForCausalLM', {}, 1, 'pytorch', 'no LLaVA'),
        (LLAVA, 'LlamaForCausalLM', {'tower': 'siglip_vision_model'}, 1, 'transformers', 'CLIP'),
        (LLAVA, 'PhiForCausalLM', {}, 1, 'transformers', 'no such language model'),
        (NEXT, 'LlamaForCausalLM', {}, 1, 'transformers', 'LLaVA-NeXT'),
        ('InternVLChatModel', 'InternLM2ForCausalLM', {'ps_version': 'v2'}, 1, 'turbomind', 'there is a GPU'),
        ('InternVLChatModel', 'InternLM2ForCausalLM', {'ps_version': 'v1'}, 1, 'pytorch', 'v2 only'),
    ],
)
def test_auto(tmp_path, architecture, text, more, gpus, name, words):
    choice = choose_backend(directory(tmp_path, architecture, text, **more), gpus=gpus, problems=[])
    assert choice.name == name
    assert words in choice.reason
    assert '\n' not in choice.reason


def test_wanted(tmp_path):
    path = directory(tmp_path, HF, 'Phi3ForCausalLM')
    assert choose_backend(path, 'pytorch', gpus=1, problems=[]).name == 'pytorch'
    assert choose_backend(path, 'lmdeploy', gpus=1, problems=[]).name == 'pytorch'
    assert choose_backend(path, 'transformers', gpus=1, problems=[]).name == 'transformers'
    for wanted, gpus, words in (('turbomind', 1, 'no Phi3'), ('lmdeploy', 0, 'no CUDA device'), ('vllm', 1, 'one of')):
        with pytest.raises(ConfigError, match=words):
            choose_backend(path, wanted, gpus, [])


def test_problems_lead_elsewhere_or_stop(tmp_path, monkeypatch):
    path = directory(tmp_path, HF, 'LlamaForCausalLM')
    lmdeploy_only = Problem('no name', 'write it', frozenset({'turbomind', 'pytorch'}))
    choice = choose_backend(path, gpus=1, problems=[lmdeploy_only])
    assert (choice.name, 'no name' in choice.reason) == ('transformers', True)
    with pytest.raises(ConfigError, match='no name') as error:
        choose_backend(path, 'lmdeploy', 1, [lmdeploy_only])
    with pytest.raises(ConfigError, match='two') as error:
        choose_backend(path, gpus=1, problems=[Problem('one', 'a'), Problem('two', 'b')])
    assert 'one' in str(error.value)
    with pytest.raises(ConfigError, match='transformers serve cannot'):
        choose_backend(path, gpus=0, problems=[Problem('x', 'y', frozenset({'transformers'}))])
    monkeypatch.setattr(module, 'installed', lambda: '')
    assert 'not installed' in choose_backend(path, gpus=1, problems=[]).reason


def test_a_language_model_without_a_name_is_left_to_transformers(tmp_path):
    path = directory(tmp_path, HF, None)
    assert choose_backend(path, gpus=1, problems=[]).name == 'transformers'


def test_commands(monkeypatch):
    command = lmdeploy_command(
        'food', 'pytorch', 'food-1', 81, 2, 4096, 8, 'auto', 'http://127.0.0.1:80', True, ['--x']
    )
    assert command[1:4] == ['-m', 'lmdeploy', 'serve']
    options = ' '.join(command)
    for part in (
        '--backend pytorch', '--tp 2', '--session-len 4096', '--max-batch-size 8', '--server-port 81',
        '--server-name 127.0.0.1', '--proxy-url http://127.0.0.1:80', '--trust-remote-code', '--x',
    ):  # fmt: skip
        assert part in options
    assert '--trust-remote-code' not in lmdeploy_command('food', 'turbomind', 'food-1', 81)
    assert '--disable-cache-status' in proxy_command(80)  # it would write into site-packages
    assert '--device cpu' in ' '.join(transformers_command('food', 80, 'cpu'))
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    assert [devices(number, 2) for number in range(2)] == ['0,1', '2,3']
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '4,6,7')
    assert [devices(number, 1) for number in range(3)] == ['4', '6', '7']


def test_lmdeploy_knows_these_commands():
    """The real command line takes every option that is passed."""
    from lmdeploy.cli.cli import CLI
    from lmdeploy.cli.serve import SubCliServe

    SubCliServe.add_parsers()
    command = lmdeploy_command('food', 'pytorch', 'food-1', 81, 2, 4096, 8, 'auto', 'http://127.0.0.1:80', True)
    args = CLI.parser.parse_args(command[3:])
    assert (args.model_path, args.backend, args.tp, args.session_len, args.max_batch_size) == (
        'food',
        'pytorch',
        2,
        4096,
        8,
    )
    assert (args.server_name, args.server_port, args.model_name) == ('127.0.0.1', 81, 'food-1')
    assert CLI.parser.parse_args(proxy_command(80)[3:]).disable_cache_status


def test_an_export_is_made_once_and_anew_after_a_change(tmp_path):
    encoder, config = make_encoder(), model_config()
    cfg = {'model': config, 'pretrained': str(make_base(tmp_path / 'base', config, encoder=encoder)), 'tune': LORA}
    checkpoint, _ = make_checkpoint(tmp_path / 'iter_1.pth', cfg, encoder)
    lines = []
    first = cached_export(cfg, checkpoint, log=lines.append)
    assert (first.parent, first.name[:7]) == (tmp_path / 'exports', 'iter_1-')
    assert cached_export(cfg, checkpoint, log=lines.append) == first
    assert 'exported before' in lines[-1]
    os.utime(checkpoint, (1, 1))
    second = cached_export(cfg, checkpoint, log=lines.append)
    assert second != first
    (tmp_path / 'base' / 'note.txt').write_text('changed')
    assert cached_export(cfg, checkpoint, tmp_path / 'elsewhere', log=lines.append).parent == tmp_path / 'elsewhere'
    with pytest.raises(ConfigError, match='does not exist'):
        cached_export(cfg, tmp_path / 'none.pth')
    with pytest.raises(ConfigError, match='no config'):
        cached_export(tmp_path / 'none.py', checkpoint)


@pytest.mark.parametrize('layout', ['native', 'official'])
def test_a_directory_in_another_layout_is_exported(tmp_path, layout):
    path, lines = make_base(tmp_path / layout, model_config(), layout=layout, encoder=make_encoder()), []
    settings = ServeSettings(path, cache=tmp_path / 'cache', device='cpu')
    made, only_mmft = servable(settings, lines.append)
    assert not only_mmft
    assert made.parent == tmp_path / 'cache'
    assert 'exporting it' in lines[0]
    assert choose_backend(made, gpus=0).name == 'transformers'
    assert servable(ServeSettings(made), lines.append) == (made, '')
    ours = servable(ServeSettings(path, backend='mmft'), lines.append)
    assert ours == (path, 'it was asked for')
    assert choose_backend(path, 'mmft').name == 'mmft'
