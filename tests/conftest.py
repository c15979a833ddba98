"""Fixtures shared by the whole suite."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import tempfile

# Tests are many small kernels, run by one process per core: more threads only wait for each other.
os.environ.setdefault('OMP_NUM_THREADS', '1')
os.environ.setdefault('TOKENIZERS_PARALLELISM', 'false')
os.environ.setdefault('HF_HUB_OFFLINE', '1')

# Commands, and the processes that they start, keep their exports here and not in the user's own cache.
os.environ['XDG_CACHE_HOME'] = tempfile.mkdtemp(prefix='mmft-tests-')
atexit.register(shutil.rmtree, os.environ['XDG_CACHE_HOME'], ignore_errors=True)

# A shell's background job ignores Ctrl-C, as do all processes that it starts: tests that press it would wait forever.
signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest  # noqa: E402  after the environment is set
import torch  # noqa: E402


@pytest.fixture(autouse=True)
def _seeded():
    """Every test starts from the same random state."""
    torch.manual_seed(0)
