"""Whether a config's run can be set up: optimizer, schedule, processes, hooks, visualizer, seed, folder."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from torch import nn

from mmft.checkpoint.build import as_dtype
from mmft.checks import is_number, is_whole, value_problem
from mmft.engine.compat import LAUNCHERS
from mmft.engine.hooks import CheckpointHook
from mmft.engine.hooks.defaults import build_hook, merged_hooks
from mmft.engine.judging.common import attempt, is_positive, part_problems
from mmft.engine.judging.val_cfg import best_problems
from mmft.engine.optim import build_optimizer, part_options
from mmft.engine.plain import plain_dict, plain_value
from mmft.engine.schedule import build_schedulers, schedule_problems
from mmft.engine.strategies import strategy_of
from mmft.errors import ConfigError
from mmft.registry import OPTIM_WRAPPERS, OPTIMIZERS, VISBACKENDS, VISUALIZERS
from mmft.words import did_you_mean

__all__ = ['run_problems']

LAST_SEED = 2**32 - 1
"""numpy takes none above it, and none below 0."""

ONLY_ONCE = ('CheckpointHook', 'ParamSchedulerHook', 'ProgressHook')
"""Hooks of which a second would undo or repeat what the first does."""

TRAINED = ('vision', 'projector', 'llm', 'lora')


def run_problems(cfg: Config) -> list[str]:
    """All that keeps a run from being set up, whatever model and data it is about."""
    return [
        *_settings(cfg),
        *_optimizer(cfg),
        *_schedule(cfg),
        *strategy_of(cfg).problems(),
        *_hooks(cfg),
        *_visualizer(cfg),
    ]


def _settings(cfg: Config) -> Iterator[str]:
    seed, launcher = cfg.get('seed'), cfg.get('launcher') or 'none'
    fits = seed is None or (is_whole(seed, least=0) and seed <= LAST_SEED)
    yield from value_problem('seed', seed, fits, f'a whole number from 0 to {LAST_SEED}, or None')
    yield from value_problem('launcher', launcher, launcher in ('none', *LAUNCHERS), f'none, {", ".join(LAUNCHERS)}')
    tf32 = cfg.get('tf32')
    yield from value_problem(
        'tf32', tf32, tf32 is None or isinstance(tf32, bool), "True, False or None (torch's default)"
    )
    resize = cfg.get('resize_embeddings')
    yield from value_problem('resize_embeddings', resize, resize in (None, True, False), 'True or False')
    try:
        as_dtype(cfg.get('dtype', 'auto'))
    except ConfigError as error:
        yield str(error)
    if cfg.get('work_dir') is not None:
        yield from _work_dir(cfg.work_dir)


def _work_dir(work_dir: Any) -> Iterator[str]:
    """A folder that cannot be made or written to."""
    if not isinstance(work_dir, (str, os.PathLike)):
        yield f'work_dir = {work_dir!r}; expected a folder'
        return
    path = Path(work_dir).absolute()
    there = next(place for place in (path, *path.parents) if place.exists())
    if not there.is_dir():
        yield f'work_dir = {str(work_dir)!r}: {there} is a file\n  to do:    name a folder with --work-dir'
    elif not os.access(there, os.W_OK | os.X_OK):
        yield f'work_dir = {str(work_dir)!r}: {there} cannot be written to\n  to do:    name a folder with --work-dir'


# -- optimizer and schedule --------------------------------------------------------------------------------------------


def _optimizer(cfg: Config) -> Iterator[str]:
    wrapper = plain_value(cfg.get('optim_wrapper'))
    if wrapper is None:
        return
    if not isinstance(wrapper, Mapping):
        yield f'optim_wrapper = {wrapper!r}; expected a dict'
        return
    optimizer = wrapper.get('optimizer')
    if not isinstance(optimizer, Mapping):
        yield 'optim_wrapper.optimizer is missing: dict(type="AdamW", lr=...)'
        return
    own = {key: value for key, value in wrapper.items() if key != 'paramwise_cfg'}
    problems = [
        *part_problems('optim_wrapper.optimizer', OPTIMIZERS, optimizer, given=('params',)),
        *_rates(optimizer),
        *part_problems('optim_wrapper', OPTIM_WRAPPERS, own, 'OptimWrapper'),
        *_wrapper(wrapper),
        *_parts(wrapper.get('paramwise_cfg')),
    ]
    # What is left only the classes know: a beta of 1.5, a wrapper that needs a GPU. One number is enough to ask them.
    if not problems:
        settings = {**wrapper, 'paramwise_cfg': {**(wrapper.get('paramwise_cfg') or {}), 'parts': {}}}
        one = nn.ModuleDict({'llm': nn.Linear(1, 1, bias=False)})
        made = attempt('optim_wrapper.optimizer', lambda: build_optimizer(one, settings), problems)
        if made is not None:
            own = {'type': 'OptimWrapper', **own, 'optimizer': made}
            attempt('optim_wrapper', lambda: OPTIM_WRAPPERS.build(own), problems)
    yield from problems


def _rates(optimizer: Mapping[str, Any]) -> Iterator[str]:
    """Values of other kinds than the optimizer's own defaults: torch's answer to them names no argument."""
    key, kind = 'optim_wrapper.optimizer', optimizer.get('type')
    lr, decay = optimizer.get('lr'), optimizer.get('weight_decay', 0.0)
    yield from value_problem(f'{key}.lr', lr, is_positive(lr), 'a number above 0')
    yield from value_problem(f'{key}.weight_decay', decay, is_number(decay, least=0), 'a number from 0')
    kind = OPTIMIZERS.get(kind) if isinstance(kind, str) else kind
    defaults = {} if not callable(kind) else {n: p.default for n, p in inspect.signature(kind).parameters.items()}
    for name, value in optimizer.items():
        default = defaults.get(name)
        if isinstance(default, tuple) and any(is_number(number) for number in default):
            fits = isinstance(value, (list, tuple)) and len(value) == len(default)
            fits = fits and all(number is None or is_number(number) for number in value)
            yield from value_problem(f'{key}.{name}', value, fits, f'{len(default)} numbers, such as {default}')
        elif is_number(default) and name not in ('lr', 'weight_decay'):
            yield from value_problem(f'{key}.{name}', value, is_number(value), f'a number, such as {default}')


def _wrapper(wrapper: Mapping[str, Any]) -> Iterator[str]:
    counts, dtype, scale = (wrapper.get(key) for key in ('accumulative_counts', 'dtype', 'loss_scale'))
    fits = 'accumulative_counts' not in wrapper or is_whole(counts, least=1)
    yield from value_problem('optim_wrapper.accumulative_counts', counts, fits, 'a whole number from 1')
    fits = dtype in (None, 'bfloat16', 'float16', 'float32')
    yield from value_problem('optim_wrapper.dtype', dtype, fits, "'bfloat16', 'float16' or None")
    if type(scale) in (int, float):  # other wrappers take more, and look at it themselves
        yield from value_problem('optim_wrapper.loss_scale', scale, is_positive(scale), 'a number above 0')
    clip = wrapper.get('clip_grad')
    if not clip and (clip is None or isinstance(clip, Mapping)):
        return
    if not isinstance(clip, Mapping):
        yield f'optim_wrapper.clip_grad = {clip!r}; expected dict(max_norm=1.0), or None'
        return
    known = [name for name in inspect.signature(nn.utils.clip_grad_norm_).parameters if name != 'parameters']
    for name, value in clip.items():
        key = f'optim_wrapper.clip_grad.{name}'
        if name not in known:
            yield f'{key}: unknown{did_you_mean(name, known)}; expected some of {known}'
        elif name in ('max_norm', 'norm_type'):  # a norm below 0 would turn every gradient round
            fits = is_positive(value) or value == float('inf')
            yield from value_problem(key, value, fits, 'a number above 0')


def _parts(paramwise: Any) -> Iterator[str]:
    key = 'optim_wrapper.paramwise_cfg'
    parts = paramwise.get('parts') if isinstance(paramwise, Mapping) else paramwise
    if parts is not None and not (isinstance(paramwise, Mapping) and isinstance(parts, Mapping)):
        yield f'{key} = {paramwise!r}; expected dict(parts=dict(projector=dict(lr=...)))'
        return
    for part, options in (parts or {}).items():
        if str(part).split('.')[0] not in TRAINED:
            yield f'{key}.parts.{part}: no such part{did_you_mean(part, TRAINED)}; expected one of {TRAINED}'
        if not isinstance(options, Mapping):
            yield f'{key}.parts.{part} = {options!r}; expected a dict with some of {part_options(str(part))}'
            continue
        for name, value in options.items():
            if name not in (known := part_options(str(part))):
                near = did_you_mean(name, known)
                yield f'{key}.parts.{part}.{name}: unknown{near}; expected some of {known}'
                continue
            if name == 'layer_decay':
                fits, wanted = is_positive(value) and value <= 1, 'a number above 0, at most 1'
            elif name == 'weight_decay':
                fits, wanted = is_number(value, least=0), 'a number from 0'
            else:
                fits, wanted = is_positive(value), 'a number above 0'
            yield from value_problem(f'{key}.parts.{part}.{name}', value, fits, wanted)


def _schedule(cfg: Config) -> Iterator[str]:
    given = plain_value(cfg.get('param_scheduler'))
    problems = [*schedule_problems(given)]
    if not problems and given:
        one = torch.optim.AdamW([nn.Parameter(torch.zeros(1))])
        long = 10**4  # of a short run mmengine's may leave nothing: what they make of it depends on the data
        attempt('param_scheduler', lambda: build_schedulers(given, one, long, long, lambda text: None), problems)
    yield from problems


# -- what happens beside training --------------------------------------------------------------------------------------


def _hooks(cfg: Config) -> Iterator[str]:
    own, custom = plain_value(cfg.get('default_hooks')) or {}, cfg.get('custom_hooks') or []
    problems: list[str] = []
    if not isinstance(own, Mapping):
        yield f'default_hooks = {own!r}; expected a dict of dicts by name'
        own = {}
    for name, hook in own.items():
        fits = hook is None or isinstance(hook, Mapping)
        problems += value_problem(f'default_hooks.{name}', hook, fits, 'a dict, or None')
    hooks = merged_hooks({name: hook for name, hook in own.items() if hook is None or isinstance(hook, Mapping)})
    named = {f'default_hooks.{name}': hook for name, hook in hooks.items()}
    if isinstance(custom, (list, tuple)):
        named |= {f'custom_hooks.{i}': plain_value(hook) for i, hook in enumerate(custom)}
    else:
        yield f'custom_hooks = {custom!r}; expected a list of dicts'
    taken: dict[str, str] = {}
    for key, hook in named.items():
        if not isinstance(hook, (Mapping, Hook)):
            problems.append(f'{key} = {hook!r}; expected a dict')
            continue
        made = attempt(key, lambda hook=hook: build_hook(hook), problems)
        if made is None:
            continue
        kind = type(made[0]).__name__
        if kind in ONLY_ONCE and kind in taken:
            problems.append(
                f'{key}: {taken[kind]} is a {kind} already\n  to do:    change {taken[kind]}, or set it to None'
            )
        taken.setdefault(kind, key)
        if isinstance(made[0], CheckpointHook):
            problems += best_problems(cfg, key, made[0].save_best)
    yield from problems


def _visualizer(cfg: Config) -> Iterator[str]:
    visualizer = cfg.get('visualizer')
    if not visualizer:
        return
    yield from part_problems('visualizer', VISUALIZERS, plain_value(visualizer))
    backends = visualizer.get('vis_backends') if isinstance(visualizer, Mapping) else None
    if backends is not None and not isinstance(backends, (list, tuple)):
        yield f'visualizer.vis_backends = {backends!r}; expected a list of dicts'
        return
    for i, backend in enumerate(backends or ()):
        settings = plain_value(backend)
        if isinstance(settings, Mapping):  # mmengine takes the name for itself
            settings = {key: value for key, value in plain_dict(settings).items() if key != 'name'}
        yield from part_problems(f'visualizer.vis_backends.{i}', VISBACKENDS, settings, given=('save_dir',))
