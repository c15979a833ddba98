"""Exports that several files of tests ask servers about, and gateways before scripted backends."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from transformers import dynamic_module_utils

from tests.serve.running import Setup
from tests.serve.served import Case, Made
from tests.serve.served import make as make_export


@pytest.fixture
def make() -> Iterator[Callable[..., Setup]]:
    """Makes gateways: arguments as ``Setup``."""
    with contextlib.ExitStack() as stack:
        yield lambda *args, **kwargs: Setup(stack, *args, **kwargs)


@pytest.fixture(scope='module')
def shared() -> Iterator[Setup]:
    """One for all tests that leave it as it was."""
    with contextlib.ExitStack() as stack:
        yield Setup(stack)


@pytest.fixture(scope='module')
def made(tmp_path_factory) -> Callable[[Case], Made]:
    """Makes the export of a case when it is asked for, once.

    The directories' own Python files are copied beside them before they are run, not into the user's cache.
    """
    root = tmp_path_factory.mktemp('served')
    kept: dict[Case, Made] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dynamic_module_utils, 'HF_MODULES_CACHE', str(root / 'modules'))
        patch.setenv('HF_MODULES_CACHE', str(root / 'modules'))
        # The package of these files is one for the whole process, wherever it was found first.
        patch.setattr(sys, 'path', [place for place in sys.path if not Path(place, 'transformers_modules').is_dir()])
        _forget_modules()
        yield lambda case: kept[case] if case in kept else kept.setdefault(case, make_export(case, root))
        _forget_modules()


def _forget_modules() -> None:
    for name in [name for name in sys.modules if name.partition('.')[0] == 'transformers_modules']:
        del sys.modules[name]
