"""Which backend is taken, how it is started, and the cache of exports."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys

import psutil
import pytest

from mmft.errors import ConfigError, ServerError
from mmft.serve import backend as module
from mmft.serve.backend import choose_backend, devices, lmdeploy_command, proxy_command, transformers_command
from mmft.serve.cache import cached_export
from mmft.serve.check import Problem
from mmft.serve.child import Child, bound_socket
from mmft.serve.server import servable
from mmft.serve.settings import ServeSettings, check_fit, check_settings
from tests.export.tiny import LORA, make_base, make_checkpoint, make_encoder, model_config
from tests.serve.running import eventually

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


def test_settings():
    with pytest.raises(ConfigError, match='3 problems'):
        check_settings(ServeSettings(tp=0, replicas=0))
    with pytest.raises(ConfigError, match='belong together'):
        check_settings(ServeSettings(config={}))
    with pytest.raises(ConfigError, match='either'):
        check_settings(ServeSettings('food', config={}, checkpoint='x'))
    with pytest.raises(ConfigError, match='no such folder'):
        check_settings(ServeSettings('food', image_root='none'))
    choice = module.Choice('transformers', '')
    with pytest.raises(ConfigError, match='--replicas N'):
        check_fit(ServeSettings('food', tp=2), choice)
    check_fit(ServeSettings('food', replicas=2), choice)
    with pytest.raises(ConfigError, match='needs 4 GPUs'):
        check_fit(ServeSettings('food', tp=2, replicas=2), module.Choice('turbomind', ''))


def test_a_taken_port():
    with bound_socket('127.0.0.1', 0) as taken:
        port = taken.getsockname()[1]
        taken.listen()
        with pytest.raises(ServerError, match=f'port {port}') as error:
            bound_socket('127.0.0.1', port)
    assert '--port' in str(error.value)
    with pytest.raises(ServerError, match=r'192\.0\.2\.1'):
        bound_socket('192.0.2.1', 0)  # of documentation: no machine has it


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
    made = servable(settings, lines.append)
    assert made.parent == tmp_path / 'cache'
    assert 'exporting it' in lines[0]
    assert choose_backend(made, gpus=0).name == 'transformers'
    assert servable(ServeSettings(made), lines.append) == made


async def start(code, echo=False):
    child = Child('the backend', [sys.executable, '-u', '-c', code], 'http://127.0.0.1:1', echo=echo)
    await child.start()
    return child


def test_a_backend_that_does_not_start_shows_its_last_lines():
    async def fail():
        child = await start("print('no such option'); print('50%\\r100%'); raise SystemExit(3)")
        with pytest.raises(ServerError, match='ended with status 3 while starting') as error:
            await child.wait_ready(30)
        assert '  | no such option\n  | 50%\n  | 100%' in str(error.value)
        slow = await start('import time; time.sleep(60)')
        with pytest.raises(ServerError, match='--start-timeout'):
            await slow.wait_ready(0.3)
        await slow.stop()
        assert slow.process.returncode == -signal.SIGTERM

    asyncio.run(fail())


def test_a_backend_that_does_not_listen_to_reason_is_killed_with_all_it_started():
    code = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
stubborn = 'import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)'
other = subprocess.Popen([sys.executable, '-c', stubborn])
print(other.pid)
time.sleep(60)
"""

    async def stop():
        child = await start(code)
        while not child.tail:
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.3)
        await child.stop(grace=0.3)
        assert child.process.returncode == -signal.SIGKILL
        return int(child.tail[0])

    other = asyncio.run(stop())
    eventually(lambda: not psutil.pid_exists(other) or psutil.Process(other).status() == 'zombie')


def test_a_backend_ends_with_the_gateway_even_if_that_is_killed():
    code = """
import asyncio, sys, time
from mmft.serve.child import Child
async def main():
    child = Child('x', [sys.executable, '-c', 'import time; time.sleep(60)'], 'http://127.0.0.1:1')
    await child.start()
    print(child.process.pid, flush=True)
    await child.wait()
asyncio.run(main())
"""
    gateway = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True)
    backend = psutil.Process(int(gateway.stdout.readline()))
    gateway.kill()
    gateway.wait()
    eventually(lambda: not backend.is_running() or backend.status() == 'zombie')
