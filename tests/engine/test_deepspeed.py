"""What a run with DeepSpeed says and keeps: the scale of float16 gradients, sharded weights counted and watched."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import deepspeed
import pytest
import torch

from mmft.engine.strategies.deepspeed import initialize, load_scaler_state, scaler_state
from mmft.errors import ConfigError
from tests.engine.toy import ToyVLM

ROOT = Path(__file__).parents[2]
ZERO3 = '{"deepspeed": {"zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0}}}'


def scaler(**values: float) -> SimpleNamespace:
    """DeepSpeed's ``DynamicLossScaler`` as it begins."""
    start = {'cur_scale': 65536.0, 'cur_iter': 0, 'last_overflow_iter': -1, 'scale_factor': 2.0, 'scale_window': 1000}
    return SimpleNamespace(**{**start, 'cur_hysteresis': 2, **values})


def test_the_loss_scale_goes_on() -> None:
    used = scaler(cur_scale=512.0, cur_iter=1207, last_overflow_iter=7, cur_hysteresis=1)
    state = scaler_state(used)
    fresh = scaler()
    load_scaler_state(fresh, state)
    assert scaler_state(fresh) == state
    assert fresh.cur_iter - fresh.last_overflow_iter == used.cur_iter - used.last_overflow_iter


def test_the_loss_scale_goes_on_with_and_without_deepspeed() -> None:
    torchs = torch.amp.GradScaler('cpu')
    torchs.load_state_dict(scaler_state(scaler(cur_scale=512.0, cur_iter=9, last_overflow_iter=4)))
    assert torchs.state_dict()['scale'] == 512.0
    assert torchs.state_dict()['_growth_tracker'] == 4
    fresh = scaler()
    load_scaler_state(fresh, torchs.state_dict())
    assert (fresh.cur_scale, fresh.cur_iter - fresh.last_overflow_iter - 1) == (512.0, 4)


def test_float16_on_a_cpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(deepspeed.get_accelerator()), 'is_fp16_supported', lambda self: False)
    optim = {'optimizer': {'type': 'AdamW', 'lr': 1e-3}, 'dtype': 'float16'}
    with pytest.raises(ConfigError, match=r"'float16' with DeepSpeed.*on cpu"):
        initialize(ToyVLM(), 'zero2', optim)


def test_sharded_weights_are_counted_and_watched(tmp_path: Path) -> None:
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    command = [sys.executable, '-m', 'tests.engine.ddp', str(tmp_path), '2', '1', 'none', ZERO3]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (log,) = tmp_path.glob('*/*.log')
    text = log.read_text()
    assert '208 parameters,              0 trained' in text
    assert '1,040 parameters,          1,040 trained' in text
    assert 'after 1 iteration: moved llm, projector; unchanged vision' in text
