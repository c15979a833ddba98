"""Auxiliary losses in training: a mean over micro-batches and ranks, beside a token loss that is a mean over tokens."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmft.data.batches.collate import PadCollator
from mmft.engine.loops import trained_weight
from tests.engine.arranged import Pictures, runner, tiny_model, train

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of one process, four micro-batches to a step."""
    work_dir = tmp_path_factory.mktemp('alone')
    train(str(work_dir), 4)
    return work_dir


def test_accumulation(alone: Path) -> None:
    """The first step, once more by hand."""
    model, data, collate = tiny_model().train(), Pictures(), PadCollator()
    token = balance = 0.0
    batches = [collate([data[i]]) for i in range(4)]
    items = sum(map(trained_weight, batches))
    for batch in batches:
        batch.pop('meta')
        with torch.no_grad():
            got = model(**model.data_preprocessor(batch), num_items=items)
        part = float(got.get('balance_loss', 0.0))  # text-only: nothing is routed, nothing is added
        token, balance = token + float(got['loss']) - part, balance + part / 4
    first = torch.load(alone / 'steps.pth', weights_only=True)[0]
    assert balance > 0.1
    assert first['balance_loss'] == pytest.approx(balance, rel=1e-5)
    assert first['loss'] == pytest.approx(token + balance, rel=1e-5)


@pytest.fixture(scope='module')
def alone_frozen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a frozen language model: two of the micro-batches of a step have no gradient to give."""
    work_dir = tmp_path_factory.mktemp('alone_frozen')
    train(str(work_dir), 4, frozen=True)
    return work_dir


@pytest.fixture(scope='module')
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same by two processes, two micro-batches each, under DDP and under ZeRO-3."""
    work_dir = tmp_path_factory.mktemp('together')
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    command = [sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node=2', '--standalone']
    command += ['-m', 'tests.engine.arranged', str(work_dir)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return work_dir


# Adam takes steps of full size on gradients that are rounding noise, of which ZeRO has its own.
@pytest.mark.parametrize(('way', 'tolerance'), [
    ('ddp', 2e-6), ('zero3', 2e-2),
    ('frozen_ddp', 2e-6), ('frozen_zero1', 2e-2), ('frozen_zero2', 2e-2), ('frozen_zero3', 2e-2),
])  # fmt: skip
def test_two_processes_are_one_with_twice_the_micro_batches(
    alone: Path, alone_frozen: Path, together: Path, way: str, tolerance: float
) -> None:
    """One of the ranks sees text only now and then: it runs tower, projector and merge all the same."""
    paths = together / way, alone_frozen if way.startswith('frozen') else alone
    steps, want = (torch.load(path / 'steps.pth', weights_only=True) for path in paths)
    (after,), (before,) = (torch.load(path / 'history.pth', weights_only=True) for path in paths)
    assert after.keys() == before.keys() >= {'loss_exchanged'}
    assert after['loss'] == pytest.approx(before['loss'], rel=tolerance * 100), (
        'text only on one rank, pictures on the other'
    )
    for a, b in zip(steps, want, strict=True):
        assert a.keys() == b.keys()
        for name in ('loss', 'balance_loss', 'grad_norm'):
            assert a[name] == pytest.approx(b[name], rel=1e-5), name
    a, b = (torch.load(path / 'iter_2.pth', weights_only=True)['state_dict'] for path in paths)
    assert a.keys() == b.keys()
    assert any(name.startswith('merge') for name in a)
    for name, weight in a.items():
        torch.testing.assert_close(weight, b[name], atol=tolerance, rtol=1e-4, msg=name)


def test_logged_under_their_own_names(tmp_path: Path) -> None:
    run = runner(str(tmp_path), 4)
    scalars: dict[str, float] = {}
    run.visualizer.add_scalars = lambda values, step: scalars.update(values)
    run.train()
    assert 0 < scalars['train/balance_loss'] < scalars['train/loss']
    log = next(tmp_path.rglob('*.log')).read_text()
    assert f', balance_loss {scalars["train/balance_loss"]:.4f}' in log
