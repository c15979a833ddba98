"""Two processes with half the batch each do what one process does with all of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


def test_two_processes_are_one_with_twice_the_batch(tmp_path: Path) -> None:
    from tests.engine.ddp import main

    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    command = [sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node=2', '--master_port=0', '--standalone']
    command += ['-m', 'tests.engine.ddp', str(tmp_path / 'two'), '2', '3', 'pytorch']
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    main(str(tmp_path / 'one'), 4, 3, 'none')
    one, two = (torch.load(tmp_path / name / 'steps.pth', weights_only=True)['steps'] for name in ('one', 'two'))
    for a, b in zip(one, two, strict=True):
        assert a['loss'] == pytest.approx(b['loss'], rel=1e-6)
        assert a['grad_norm'] == pytest.approx(b['grad_norm'], rel=1e-5)
        assert a['tokens'] == b['tokens']
    a, b = (torch.load(tmp_path / name / 'iter_3.pth', weights_only=True) for name in ('one', 'two'))
    for name, weight in a['state_dict'].items():
        assert torch.allclose(weight, b['state_dict'][name], atol=1e-6), name
    assert len(b['rng']) == 2
    assert not torch.equal(b['rng'][0]['torch'], b['rng'][1]['torch']), 'each rank has dropout of its own'
