"""Fixtures shared by the whole suite."""

from __future__ import annotations

import os

# Tests are many small kernels: more threads than cores only wait for each other. Set before torch is imported.
os.environ.setdefault('OMP_NUM_THREADS', '2')
os.environ.setdefault('TOKENIZERS_PARALLELISM', 'false')
os.environ.setdefault('HF_HUB_OFFLINE', '1')

import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded():
    """Every test starts from the same random state."""
    torch.manual_seed(0)
