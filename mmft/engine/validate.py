"""Looks a config over before anything is built, and tells all its problems at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmft.checks import is_number, is_whole
from mmft.engine.validate_model import model_problems, nearest, weight_problems
from mmft.errors import ConfigError

__all__ = ['KNOWN_KEYS', 'validate_config']

REQUIRED = ('model', 'train_dataloader', 'optim_wrapper', 'train_cfg', 'work_dir')
KNOWN_KEYS = (
    *REQUIRED,
    'pretrained',
    'pretrained_repo',
    'dtype',
    'tune',
    'gradient_checkpointing',
    'encoder',
    'val_dataloader',
    'val_cfg',
    'param_scheduler',
    'default_hooks',
    'custom_hooks',
    'custom_imports',
    'seed',
    'visualizer',
    'env_cfg',
    'log_level',
    'launcher',
    'resume',
    'init_from',
    'model_wrapper_cfg',
    'deepspeed',
    'default_scope',
)
VALIDATION = ('max_samples', 'max_new_tokens')
_LOADER_PATHS = ('ann_file', 'image_root')


def validate_config(cfg: Config) -> None:
    """Check a config.

    Raises:
        ConfigError: lists every problem: unknown keys and parts, missing weights and files, wrong types and values.
    """
    problems = [
        *_keys(cfg),
        *model_problems(cfg),
        *_optimizer(cfg),
        *_length(cfg),
        *_files(cfg),
        *weight_problems(cfg),
    ]
    if problems:
        raise ConfigError.gather(problems)


def _keys(cfg: Config) -> Iterator[str]:
    for key in REQUIRED:
        if cfg.get(key) is None:
            yield f'`{key}` is missing'
    lowered = [key for key, value in cfg.items() if _is_setting(key, value)]
    if cfg.get('load_from'):
        yield '`load_from` is called `init_from` now'
    for key in lowered:
        if key not in KNOWN_KEYS and key != 'load_from':
            close = nearest(key, KNOWN_KEYS, cutoff=0.75)
            # Other names are the config's own variables (data_root...); a misspelt setting would do nothing.
            if close or isinstance(cfg[key], Mapping):
                yield f'unknown key `{key}`{close}'


def _is_setting(key: str, value: Any) -> bool:
    return not key.startswith('_') and not callable(value) and not isinstance(value, type)


def _optimizer(cfg: Config) -> Iterator[str]:
    wrapper = cfg.get('optim_wrapper')
    if not isinstance(wrapper, Mapping):
        return
    optimizer = wrapper.get('optimizer')
    if not isinstance(optimizer, Mapping):
        yield 'optim_wrapper.optimizer is missing: dict(type="AdamW", lr=...)'
        return
    yield from _number('optim_wrapper.optimizer.lr', optimizer.get('lr'), above=0)
    if 'weight_decay' in optimizer:
        yield from _number('optim_wrapper.optimizer.weight_decay', optimizer['weight_decay'], least=0)
    counts = wrapper.get('accumulative_counts', 1)
    if not is_whole(counts, least=1):
        yield f'optim_wrapper.accumulative_counts = {counts!r}; expected a whole number from 1'
    if wrapper.get('dtype') not in (None, 'bfloat16', 'float16', 'float32'):
        yield f"optim_wrapper.dtype = {wrapper['dtype']!r}; expected 'bfloat16', 'float16' or None"
    for part, options in ((wrapper.get('paramwise_cfg') or {}).get('parts') or {}).items():
        if part.split('.')[0] not in ('vision', 'projector', 'llm', 'lora'):
            known = ('vision', 'projector', 'llm', 'lora')
            close = nearest(part, known)
            yield f'optim_wrapper.paramwise_cfg.parts.{part}: no such part{close}; expected one of {known}'
        if 'lr' in options:
            yield from _number(f'optim_wrapper.paramwise_cfg.parts.{part}.lr', options['lr'], above=0)


def _length(cfg: Config) -> Iterator[str]:
    train = cfg.get('train_cfg')
    if isinstance(train, Mapping):
        given = [key for key in ('max_epochs', 'max_iters') if train.get(key) is not None]
        if len(given) != 1:
            yield f'train_cfg names {given or "no length"}; expected one of max_epochs, max_iters'
        for key in given:
            if not is_whole(train[key], least=1):
                yield f'train_cfg.{key} = {train[key]!r}; expected a whole number from 1'
        for key in set(train) - {'type', 'max_epochs', 'max_iters', 'val_interval'}:
            yield f'train_cfg.{key}: unknown{nearest(key, ("max_epochs", "max_iters", "val_interval"))}'
    for key in set(cfg.get('val_cfg') or {}) - {'type', *VALIDATION}:
        yield f'val_cfg.{key}: unknown{nearest(key, VALIDATION)}; expected some of {VALIDATION}'
    for name in ('train_dataloader', 'val_dataloader'):
        loader = cfg.get(name)
        if isinstance(loader, Mapping):
            size, workers = loader.get('batch_size', 1), loader.get('num_workers', 0)
            if not is_whole(size, least=1):
                yield f'{name}.batch_size = {size!r}; expected a whole number from 1'
            if not is_whole(workers, least=0):
                yield f'{name}.num_workers = {workers!r}; expected a whole number from 0'


def _files(cfg: Config) -> Iterator[str]:
    for name in ('train_dataloader', 'val_dataloader'):
        dataset = (cfg.get(name) or {}).get('dataset')
        if not isinstance(dataset, Mapping):
            if cfg.get(name):
                yield f'{name}.dataset is missing'
            continue
        paths = [(key, dataset.get(key)) for key in _LOADER_PATHS]
        if isinstance(dataset.get('meta_file'), str):
            paths.append(('meta_file', dataset['meta_file']))
        for key, path in paths:
            if path and not Path(path).exists():
                yield f'{name}.dataset.{key}: {path} does not exist (looked from {Path.cwd()})'


def _number(name: str, value: Any, above: float | None = None, least: float | None = None) -> Iterator[str]:
    bound = f'above {above}' if above is not None else f'from {least}'
    if not is_number(value, least) or (above is not None and not value > above):
        yield f'{name} = {value!r}; expected a number {bound}'
