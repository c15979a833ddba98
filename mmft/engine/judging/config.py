"""Checks a config before anything is built, and reports all its problems at once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmft.checks import is_whole, value_problem
from mmft.engine.judging.common import attempt, is_path, part_problems
from mmft.engine.judging.model import model_problems
from mmft.engine.judging.packages import missing_packages
from mmft.engine.judging.processes import loader_problems, setup_problems
from mmft.engine.judging.run import run_problems
from mmft.engine.judging.val_cfg import validation_problems
from mmft.engine.judging.weights import missing_weights, weight_problems
from mmft.engine.plain import plain_dict, plain_value
from mmft.errors import ConfigError
from mmft.plain_json import config_json
from mmft.registry import COLLATORS, DATASETS, SAMPLERS
from mmft.user_code import resolve_code
from mmft.words import did_you_mean

__all__ = ['KNOWN_KEYS', 'Problems', 'find_problems', 'validate_config']

REQUIRED = ('model', 'train_dataloader', 'optim_wrapper', 'train_cfg', 'work_dir')
KNOWN_KEYS = (
    *REQUIRED,
    'pretrained',
    'pretrained_repo',
    'pretrained_command',
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
    'tf32',
    'resize_embeddings',
    'default_scope',
)
LOADERS = ('train_dataloader', 'val_dataloader')


@dataclass(frozen=True)
class Problems:
    """What is wrong with a config.

    Attributes:
        wrong: mistakes, each of which only a change of the config fixes.
        missing: weights, data and packages that the config names and that are not there yet.
    """

    wrong: list[str]
    missing: list[str]

    @property
    def error(self) -> ConfigError | None:
        """All of them in one; None where there are none."""
        found = [*self.wrong, *self.missing]
        return ConfigError.gather(found) if found else None


def find_problems(cfg: Config) -> Problems:
    """Every problem of a config.

    Raises:
        ConfigError: code that it names cannot be imported; without it nothing else can be checked.
    """
    resolve_code(cfg)
    wrong = [
        *_keys(cfg),
        *model_problems(cfg),
        *run_problems(cfg),
        *setup_problems(cfg),
        *_length(cfg),
        *validation_problems(cfg),
        *_data(cfg),
        *weight_problems(cfg),
    ]
    return Problems(wrong, [*_missing_files(cfg), *missing_weights(cfg), *missing_packages(cfg)])


def validate_config(cfg: Config) -> None:
    """Check a config.

    Raises:
        ConfigError: lists every problem: unknown keys and parts, missing weights and files, wrong types and values.
    """
    if error := find_problems(cfg).error:
        raise error


def _keys(cfg: Config) -> Iterator[str]:
    for key in REQUIRED:
        if cfg.get(key) is None:
            yield f'`{key}` is missing'
    for key in ('model', 'encoder', 'train_cfg'):
        value = cfg.get(key)
        yield from value_problem(key, value, value is None or isinstance(value, Mapping), 'a dict')
    problems: list[str] = []
    attempt('the config', lambda: config_json(plain_dict(cfg)), problems)
    yield from problems
    lowered = [key for key, value in cfg.items() if _is_setting(key, value)]
    if cfg.get('load_from'):
        yield '`load_from` is now called `init_from`'
    for key in lowered:
        if key not in KNOWN_KEYS and key != 'load_from':
            close = did_you_mean(key, KNOWN_KEYS, cutoff=0.75)
            # Other names are the config's own variables (data_root...); a misspelt setting would do nothing.
            if close or isinstance(cfg[key], Mapping):
                yield f'unknown key `{key}`{close}'


def _is_setting(key: str, value: Any) -> bool:
    return not key.startswith('_') and not callable(value) and not isinstance(value, type)


def _length(cfg: Config) -> Iterator[str]:
    train = cfg.get('train_cfg')
    if isinstance(train, Mapping):
        given = [key for key in ('max_epochs', 'max_iters') if train.get(key) is not None]
        if len(given) != 1:
            yield f'train_cfg names {given or "no length"}; expected one of max_epochs, max_iters'
        for key in given:
            if not is_whole(train[key], least=1):
                yield f'train_cfg.{key} = {train[key]!r}; expected a whole number from 1'
        every = train.get('val_interval')
        fits = every is None or is_whole(every, least=0)
        yield from value_problem('train_cfg.val_interval', every, fits, 'a whole number from 0 (never), or None')
        for key in set(train) - {'type', 'max_epochs', 'max_iters', 'val_interval'}:
            yield f'train_cfg.{key}: unknown{did_you_mean(key, ("max_epochs", "max_iters", "val_interval"))}'


def _data(cfg: Config) -> Iterator[str]:
    for name in LOADERS:
        loader = plain_value(cfg.get(name))
        if not isinstance(loader, Mapping):
            if loader or (loader is not None and name == 'train_dataloader'):
                yield f'{name} = {loader!r}; expected a dict'
            continue
        sizes = [
            problem
            for key, least in (('batch_size', 1), ('num_workers', 0))
            for problem in value_problem(
                f'{name}.{key}',
                loader.get(key, least),
                is_whole(loader.get(key, least), least),
                f'a whole number from {least}',
            )
        ]
        yield from sizes or loader_problems(name, loader)
        if not isinstance(loader.get('dataset'), Mapping):
            if loader:
                yield f'{name}.dataset is missing'
        else:
            yield from part_problems(f'{name}.dataset', DATASETS, loader['dataset'], 'ChatDataset', ('encoder',))
            yield from _paths(f'{name}.dataset', loader['dataset'])
        for key, registry, kind in (('sampler', SAMPLERS, 'EpochBatchSampler'), ('collate', COLLATORS, 'PadCollator')):
            if key in loader:
                yield from part_problems(f'{name}.{key}', registry, loader[key], kind, ('dataset',))


def _paths(key: str, dataset: Mapping[str, Any]) -> Iterator[str]:
    """Files and folders are text. ``meta_file`` may be the table itself."""
    for name in ('ann_file', 'image_root', 'meta_file'):
        value = dataset.get(name)
        fits = value is None or is_path(value) or (name == 'meta_file' and isinstance(value, Mapping))
        yield from value_problem(f'{key}.{name}', value, fits, 'a path')
    if dataset.get('ann_file') and dataset.get('meta_file'):
        yield f'{key} names both ann_file and meta_file; expected one of them'


def _missing_files(cfg: Config) -> Iterator[str]:
    for name in LOADERS:
        loader = cfg.get(name)
        dataset = loader.get('dataset') if isinstance(loader, Mapping) else None
        if not isinstance(dataset, Mapping):
            continue
        for key in ('ann_file', 'image_root', 'meta_file'):
            path = dataset.get(key)
            if path and is_path(path) and not os.path.exists(path):
                yield f'{name}.dataset.{key}: {path} does not exist (relative to {Path.cwd()})'
