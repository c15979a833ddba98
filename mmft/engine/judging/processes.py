"""Whether a run's surroundings can be set up: processes, logging, data loaders. torch and mmengine name no key."""

from __future__ import annotations

import inspect
import logging
import multiprocessing
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config
from torch.utils.data import DataLoader

from mmft.checks import is_number, is_whole, value_problem
from mmft.engine.judging.common import attempt
from mmft.engine.plain import plain_value
from mmft.words import did_you_mean

__all__ = ['loader_problems', 'setup_problems']

_ENV = ('cudnn_benchmark', 'mp_cfg', 'dist_cfg', 'resource_limit')
_PROCESSES = ('mp_start_method', 'opencv_num_threads')
_OURS = ('dataset', 'sampler', 'collate', 'batch_size')
_TAKEN = ('batch_sampler', 'collate_fn', 'generator', 'shuffle', 'drop_last')
"""Of torch's ``DataLoader``: what ``sampler`` and ``collate`` of a config decide."""


def setup_problems(cfg: Config) -> Iterator[str]:
    """All that is wrong with ``env_cfg``, ``log_level`` and ``model_wrapper_cfg`` of a config."""
    level = cfg.get('log_level', 'INFO')
    fits = is_whole(level) or (isinstance(level, str) and isinstance(logging.getLevelName(level), int))
    yield from value_problem('log_level', level, fits, "'DEBUG', 'INFO', 'WARNING' or 'ERROR'")
    yield from _dict('model_wrapper_cfg', cfg.get('model_wrapper_cfg'), ('find_unused_parameters',))
    env = plain_value(cfg.get('env_cfg'))
    yield from _dict('env_cfg', env, _ENV)
    if not isinstance(env, Mapping):
        return
    processes, group, limit = (env.get(key) for key in ('mp_cfg', 'dist_cfg', 'resource_limit'))
    yield from value_problem('env_cfg.resource_limit', limit, limit is None or is_whole(limit, 1), 'a whole number')
    yield from _dict('env_cfg.mp_cfg', processes, _PROCESSES)
    yield from _dict('env_cfg.dist_cfg', group, None)
    if isinstance(processes, Mapping):
        method, threads = processes.get('mp_start_method', 'fork'), processes.get('opencv_num_threads', 0)
        known = multiprocessing.get_all_start_methods()
        yield from value_problem('env_cfg.mp_cfg.mp_start_method', method, method in known, f'one of {known}')
        fits = is_whole(threads, 0) and threads < 2**31
        yield from value_problem('env_cfg.mp_cfg.opencv_num_threads', threads, fits, 'a whole number from 0')
    timeout = group.get('timeout') if isinstance(group, Mapping) else None
    fits = timeout is None or (is_number(timeout) and 0 < timeout < 2**31)
    yield from value_problem('env_cfg.dist_cfg.timeout', timeout, fits, 'seconds')


def _dict(key: str, value: Any, known: tuple[str, ...] | None) -> Iterator[str]:
    """A dict of these keys (None: of any), or None."""
    if value is not None and not isinstance(value, Mapping):
        yield f'{key} = {value!r}; expected a dict'
    elif value and known is not None:
        for name in value:
            if name not in known:
                yield f'{key}.{name}: unknown{did_you_mean(name, known)}; expected some of {known}'


def loader_problems(key: str, loader: Mapping[str, Any]) -> list[str]:
    """Options of a data loader that go to torch's ``DataLoader``, which is asked for what it makes of them."""
    known = [name for name in inspect.signature(DataLoader).parameters if name not in (*_OURS, *_TAKEN)]
    options = {name: value for name, value in loader.items() if name not in _OURS}
    problems: list[str] = []
    for name in options:
        if name in _TAKEN:
            problems.append(f'{key}.{name}: {key}.sampler decides that; expected sampler=dict({name}=...)')
        elif name not in known:
            problems.append(f'{key}.{name}: unknown{did_you_mean(name, [*_OURS, *known])}')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # more workers than cores: the run warns of it
        if not problems:
            attempt(key, lambda: DataLoader([0], batch_sampler=[[0]], **options), problems)
    return problems
