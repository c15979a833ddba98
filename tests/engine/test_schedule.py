"""Schedules count iterations, and a warm-up is never so short that it becomes the learning rate."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from mmft.engine.optim import OptimWrapper
from mmft.engine.schedule import build_schedulers
from mmft.errors import ConfigError


def rates(cfg: object, total: int, epoch_length: int = 10, lr: float = 1.0) -> tuple[list[float], list[str]]:
    """The learning rate of every iteration, and what was said."""
    wrapper = OptimWrapper(torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=lr))
    said: list[str] = []
    schedulers = build_schedulers(cfg, wrapper, total, epoch_length, said.append)
    seen = []
    for _ in range(total):
        seen.append(wrapper.optimizer.param_groups[0]['lr'])
        wrapper.optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    return seen, said


def test_warmup_then_cosine() -> None:
    seen, said = rates({'type': 'cosine', 'warmup_ratio': 0.2, 'min_lr_ratio': 0.1}, 20)
    assert seen[:4] == [0.25, 0.5, 0.75, 1.0]
    assert seen[4] == 1.0
    assert seen[12] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 8 / 16)))
    assert 0.1 < seen[-1] < 0.12
    assert not said


@pytest.mark.parametrize('total', [1, 3, 10, 16, 34, 49])
def test_a_warmup_that_rounds_away_is_dropped_aloud(total: int) -> None:
    """XTuner's configs train 34 to 66 iterations at 1e-5 of the rate, and raise below 34."""
    seen, said = rates({'type': 'cosine', 'warmup_ratio': 0.03}, total)
    assert seen[0] == 1.0
    assert len(said) == 1
    assert 'too short' in said[0]


@pytest.mark.parametrize(('epoch_length', 'peak_at'), [(8, 0), (40, 0), (100, 2)])
def test_mmengine_lists_in_epochs(epoch_length: int, peak_at: int) -> None:
    cfg = [
        {
            'type': 'LinearLR',
            'start_factor': 1e-5,
            'by_epoch': True,
            'begin': 0,
            'end': 0.03,
            'convert_to_iter_based': True,
        },
        {'type': 'CosineAnnealingLR', 'eta_min': 0.0, 'by_epoch': True, 'begin': 0.03, 'end': 1, 'T_max': 1},
    ]
    seen, said = rates(cfg, epoch_length, epoch_length)
    assert max(seen) == pytest.approx(1.0)
    assert seen.index(max(seen)) == peak_at
    assert bool(said) == (peak_at == 0)
    assert seen[-1] < 0.1


def test_linear_and_constant() -> None:
    assert rates({'type': 'linear'}, 4)[0] == [1.0, 0.75, 0.5, 0.25]
    assert rates({'type': 'constant', 'warmup': 2}, 4)[0] == [0.5, 1.0, 1.0, 1.0]
    assert rates(None, 2)[0] == [1.0, 1.0]


def test_unknown_option() -> None:
    with pytest.raises(ConfigError, match='warm_up'):
        rates({'type': 'cosine', 'warm_up': 0.1}, 4)
