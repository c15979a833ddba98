"""Two processes with half the batch each do what one process does with all of it, under DDP and under ZeRO-3."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmft.engine.strategies import Sharding
from mmft.engine.strategies.deepspeed_config import deepspeed_config, sharding_of
from mmft.errors import ConfigError
from tests.engine.ddp import main

ROOT = Path(__file__).parents[2]
OPTIM = {'optimizer': {'type': 'AdamW', 'lr': 1e-3}, 'clip_grad': {'max_norm': 1.0}, 'dtype': 'bfloat16'}


def two_processes(work_dir: Path, *options: str) -> None:
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    command = [sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node=2', '--standalone']
    command += ['-m', 'tests.engine.ddp', str(work_dir), '2', '3', 'pytorch', *options]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope='module')
def ddp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two processes."""
    work_dir = tmp_path_factory.mktemp('ddp')
    two_processes(work_dir, '{}')
    return work_dir


def assert_close(one: Path, other: Path) -> None:
    a, b = (torch.load(path, weights_only=True) for path in (one, other))
    for name, weight in a['state_dict'].items():
        assert torch.allclose(weight, b['state_dict'][name], atol=1e-6), name
    a, b = (content['optimizer']['optimizer']['state'] for content in (a, b))
    assert a.keys() == b.keys()
    for number, state in a.items():
        for key, value in state.items():
            assert torch.allclose(value, b[number][key], atol=1e-6), (number, key)


def test_two_processes_are_one_with_twice_the_batch(ddp: Path, tmp_path: Path) -> None:
    main(str(tmp_path), 4, 3, 'none')
    one, two = (torch.load(path / 'steps.pth', weights_only=True) for path in (tmp_path, ddp))
    (before,), (after,) = one['history'], two['history']
    for name in ('loss', 'exact_match', 'nats_per_answer'):
        assert before[name] == pytest.approx(after[name], rel=1e-5)
    assert before['loss_own'] == pytest.approx(before['loss'], rel=1e-5), 'of all samples'
    assert set(before) == set(after) >= {'loss_exchanged'}
    for a, b in zip(one['steps'], two['steps'], strict=True):
        assert a['loss'] == pytest.approx(b['loss'], rel=1e-6)
        assert a['grad_norm'] == pytest.approx(b['grad_norm'], rel=1e-5)
        assert a['tokens'] == b['tokens']
    assert_close(tmp_path / 'iter_3.pth', ddp / 'iter_3.pth')
    rng = torch.load(ddp / 'iter_3.pth', weights_only=True)['rng']
    assert len(rng) == 2
    assert not torch.equal(rng[0]['torch'], rng[1]['torch']), 'each rank has dropout of its own'


@pytest.fixture(scope='module')
def zero(ddp: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of two processes resumed under ZeRO: as it was, and with other settings."""
    work_dir = tmp_path_factory.mktemp('zero')
    for name in ('same', 'changed'):
        (work_dir / name).mkdir()
        shutil.copy(ddp / 'iter_1.pth', work_dir / name)
    optimizer = {'lr': 1e-6, 'weight_decay': 0.5, 'betas': [0.5, 0.6]}
    changed = {'optim_wrapper': {'optimizer': optimizer}, 'param_scheduler': {'_delete_': True, 'type': 'constant'}}
    same = {'folder': '/same', 'deepspeed': 'zero3', 'resume': True}
    changed |= {'folder': '/changed', 'deepspeed': 'zero2', 'resume': True}
    two_processes(work_dir, json.dumps(same), json.dumps(changed))
    return work_dir


def test_zero3_goes_on_where_ddp_stopped(ddp: Path, zero: Path) -> None:
    """Reads whole weights and moments into shards, trains, and writes them whole again."""
    assert_close(ddp / 'iter_2.pth', zero / 'same' / 'iter_2.pth')
    assert_close(ddp / 'iter_3.pth', zero / 'same' / 'iter_3.pth')


def test_changed_settings_take_effect_under_deepspeed(ddp: Path, zero: Path) -> None:
    before, after = (torch.load(path, weights_only=True) for path in (ddp / 'iter_1.pth', zero / 'changed/iter_2.pth'))
    groups = after['optimizer']['optimizer']['param_groups']
    assert {group['lr'] for group in groups} == {1e-6}
    assert {group['weight_decay'] for group in groups} == {0.5, 0.0}
    assert {tuple(group['betas']) for group in groups} == {(0.5, 0.6)}
    for name, weight in before['state_dict'].items():
        assert (after['state_dict'][name] - weight).abs().max() < 1e-5, 'the first step was one at the old rate'


def test_deepspeed_config() -> None:
    made = deepspeed_config('deepspeed_zero2_offload', OPTIM)
    assert made['zero_optimization'] == {'stage': 2, 'offload_optimizer': {'device': 'cpu', 'pin_memory': True}}
    assert made['bf16'] == {'enabled': True}
    assert made['gradient_clipping'] == 1.0
    own = deepspeed_config({'zero_optimization': {'stage': 1}, 'gradient_clipping': 0.5}, OPTIM)
    assert own['gradient_clipping'] == 0.5
    with pytest.raises(ConfigError, match='zero9'):
        deepspeed_config('zero9', OPTIM)
    with pytest.raises(ConfigError, match="'SGD' with DeepSpeed"):
        deepspeed_config('zero2', {**OPTIM, 'optimizer': {'type': 'SGD'}})


LLAVA = {  # scripts/zero3.json of LLaVA
    'fp16': {'enabled': 'auto', 'loss_scale': 0, 'loss_scale_window': 1000, 'hysteresis': 2, 'min_loss_scale': 1},
    'bf16': {'enabled': 'auto'},
    'train_micro_batch_size_per_gpu': 'auto', 'train_batch_size': 'auto', 'gradient_accumulation_steps': 'auto',
    'zero_optimization': {
        'stage': 3, 'overlap_comm': True, 'sub_group_size': 1e9, 'reduce_bucket_size': 'auto',
        'stage3_prefetch_bucket_size': 'auto', 'stage3_param_persistence_threshold': 'auto',
        'stage3_gather_16bit_weights_on_model_save': True,
    },
}  # fmt: skip


def test_a_file_as_transformers_trainer_takes_it(tmp_path):
    file = tmp_path / 'zero3.json'
    file.write_text(json.dumps({**LLAVA, 'optimizer': {'type': 'AdamW', 'params': {'lr': 'auto', 'betas': 'auto'}}}))
    optim = {**OPTIM, 'dtype': 'bfloat16', 'accumulative_counts': 4}
    made = deepspeed_config(str(file), optim, width=64)
    assert 'auto' not in json.dumps(made)
    assert made['bf16'] == {'enabled': True}
    assert made['fp16'] == {**LLAVA['fp16'], 'enabled': False}
    zero = made['zero_optimization']
    sizes = ('reduce_bucket_size', 'stage3_prefetch_bucket_size', 'stage3_param_persistence_threshold')
    assert [zero[name] for name in sizes] == [4096, 3686, 640]
    assert zero['sub_group_size'] == 1e9
    assert (made['train_micro_batch_size_per_gpu'], made['gradient_accumulation_steps']) == (1, 1)
    assert sharding_of(str(file), 8) == Sharding(3, 8, False)


@pytest.mark.parametrize(
    ('change', 'message'),
    [({'gradient_accumulation_steps': 8}, 'gradient_accumulation_steps = 8, but the config says 4'),
     ({'train_micro_batch_size_per_gpu': 3}, 'train_micro_batch_size_per_gpu = 3, but the config says 2'),
     ({'train_batch_size': 64}, 'train_batch_size = 64'),
     ({'bf16': {'enabled': False}}, r'bf16\.enabled = False, but the config says True'),
     ({'optimizer': {'type': 'AdamW', 'params': {'lr': 1e-3}}}, r'optimizer\.params\.lr = 0\.001'),
     ({'zero_optimization': {'stage': 'auto'}}, 'stage = "auto", which nothing here resolves'),
     ({'zero_optimization': 3}, 'holds no settings'), (None, '(?s)cannot be read.*--deepspeed zero3 needs no file')],
)  # fmt: skip
def test_a_file_that_contradicts_the_config(tmp_path, change, message):
    file = tmp_path / 'zero3.json'
    if change is not None:
        file.write_text(json.dumps({**LLAVA, **change}))
    with pytest.raises(ConfigError, match=message):
        deepspeed_config(str(file), {**OPTIM, 'dtype': 'bfloat16', 'accumulative_counts': 4}, batch_size=2)
