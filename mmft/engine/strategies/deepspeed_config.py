"""``deepspeed`` of a config, in DeepSpeed's own form: nothing of deepspeed is imported."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmft.engine.strategies.base import Sharding
from mmft.errors import ConfigError
from mmft.words import did_you_mean

__all__ = ['STAGES', 'check_deepspeed', 'deepspeed_config', 'of_run', 'read_setting', 'sharding_of']

_CPU = {'device': 'cpu', 'pin_memory': True}
STAGES: dict[str, dict[str, Any]] = {
    'zero1': {'stage': 1},
    'zero2': {'stage': 2},
    'zero3': {'stage': 3},
    'zero2_offload': {'stage': 2, 'offload_optimizer': _CPU},
    'zero3_offload': {'stage': 3, 'offload_optimizer': _CPU, 'offload_param': _CPU},
}
"""Name on the command line -> DeepSpeed's ``zero_optimization``."""

_NOTHING: Mapping[str, Any] = {}
_SIZES = {
    'reduce_bucket_size': lambda width: width * width,
    'stage3_prefetch_bucket_size': lambda width: int(0.9 * width * width),
    'stage3_param_persistence_threshold': lambda width: 10 * width,
}
"""What ``"auto"`` is in ``zero_optimization``: ``transformers/integrations/deepspeed.py``."""


def read_setting(setting: Any) -> Any:
    """``deepspeed`` of a config; a path to a JSON file as the dict in it.

    Raises:
        ConfigError: no such file, or no JSON object in it.
    """
    if not isinstance(setting, str) or not setting.endswith('.json'):
        return setting
    try:
        content = json.loads(Path(setting).read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError) as error:
        stem = Path(setting).stem
        raise ConfigError(
            f'deepspeed = {setting!r} cannot be read: {getattr(error, "strerror", None) or error}',
            expected="a JSON file in DeepSpeed's own form",
            fix=f'--deepspeed {stem} needs no file' if stem in STAGES else f'or one of {", ".join(STAGES)}',
        ) from None
    if not isinstance(content, dict) or not isinstance(content.get('zero_optimization', {}), dict):
        raise ConfigError(
            f'deepspeed = {setting!r} holds no settings', expected="a JSON object in DeepSpeed's own form"
        )
    return content


def sharding_of(setting: Any, gpus: int) -> Sharding:
    """What a setting shares among ``gpus``.

    >>> sharding_of('zero3_offload', 8)
    Sharding(stage=3, gpus=8, offload=True)
    """
    if isinstance(setting := read_setting(setting), Mapping):
        zero = setting.get('zero_optimization', {})
        return Sharding(int(zero.get('stage', 0)), gpus, 'offload_optimizer' in zero)
    found = re.search(r'zero_?(?:stage_?)?(\d)', str(setting or ''))
    return Sharding(int(found[1]) if found else 0, gpus, 'offload' in str(setting))


def check_deepspeed(
    setting: str | Mapping[str, Any], optimizer: Any, run: Mapping[str, Any] = _NOTHING
) -> dict[str, Any]:
    """A setting in DeepSpeed's own form, without what is ``"auto"`` in it or said by the run as well.

    Args:
        setting: as in ``deepspeed_config``.
        optimizer: ``optim_wrapper.optimizer.type`` of the config.
        run: what the run's config says, by DeepSpeed's names (``gradient_clipping``, ``bf16.enabled``...): a file that
            says something else is an error.

    Raises:
        ConfigError: unknown name, a file that contradicts the run, or an optimizer whose state is not Adam's.
    """
    problems: list[ConfigError | str] = []
    from_file, setting = isinstance(setting, str), read_setting(setting)
    own = copy.deepcopy(dict(setting)) if isinstance(setting, Mapping) else {}
    if own:
        problems += _without_auto(own, run if from_file else {})
    else:
        name = str(setting).removeprefix('deepspeed_')
        if name in STAGES:
            own = {'zero_optimization': {key: _copy(value) for key, value in STAGES[name].items()}}
        else:
            what = f'deepspeed = {setting!r} names no setting{did_you_mean(name, STAGES)}'
            problems.append(
                ConfigError(
                    what, expected=f"one of {', '.join(STAGES)}, a JSON file, or a dict in DeepSpeed's own form"
                )
            )
    if optimizer not in ('Adam', 'AdamW'):
        what = f'optim_wrapper.optimizer.type = {optimizer!r} with DeepSpeed'
        problems.append(ConfigError(what, expected="'AdamW' or 'Adam'"))
    if problems:
        raise ConfigError.gather(problems)
    return own


def _without_auto(own: dict[str, Any], run: Mapping[str, Any]) -> list[str]:
    """Take out of ``own`` what transformers' Trainer would fill in from its arguments, and mmft from its config.

    Returns:
        What is wrong: values that the run's config contradicts, an optimizer or schedule, an ``auto`` of nothing.
    """
    problems = []
    for part in ('optimizer', 'scheduler'):
        named = own.pop(part, None) or {}
        given = named.get('params') if isinstance(named, Mapping) else {'type': named}
        if not isinstance(given, Mapping):
            given = {'params': given} if given else {}
        for name, value in given.items():
            if value != 'auto':
                problems.append(
                    f"deepspeed: {part}.params.{name} = {value!r}, but the run's {part} is the config's own"
                )
    for name in ('train_batch_size', 'train_micro_batch_size_per_gpu', 'gradient_accumulation_steps',
                 'gradient_clipping', 'bf16.enabled', 'fp16.enabled'):  # fmt: skip
        part, _, leaf = name.rpartition('.')
        inside = own.get(part) if part else own
        if not isinstance(inside, dict) or leaf not in inside:
            continue
        value = inside[leaf]
        if value == 'auto':
            del inside[leaf]
        elif run and name == 'train_batch_size':
            problems.append(f'deepspeed: {name} = {value!r}; write "auto": it follows from the config and the launcher')
        elif name in run:
            if value != run[name]:
                problems.append(f'deepspeed: {name} = {value!r}, but the config says {run[name]!r}; write "auto"')
            del inside[leaf]
    zero = own.get('zero_optimization')
    zero = zero if isinstance(zero, Mapping) else {}
    left = [*(key for key in own if own[key] == 'auto'), *(key for key in zero if zero[key] == 'auto')]
    problems += [f'deepspeed: {key} = "auto", which nothing here resolves' for key in left if key not in _SIZES]
    return problems


def deepspeed_config(
    setting: str | Mapping[str, Any], optim: Mapping[str, Any], width: int | None = None, batch_size: int | None = None
) -> dict[str, Any]:
    """DeepSpeed's config of a run.

    Args:
        setting: a name from ``STAGES`` (also as ``deepspeed_zero2``), a dict in DeepSpeed's own form, which wins, or a
            JSON file as transformers' Trainer takes it: ``"auto"`` is what the config says.
        optim: ``optim_wrapper`` of the config: its dtype and clipping are DeepSpeed's too.
        width: Dl, from which the Trainer's ``"auto"`` of bucket sizes is counted.

    Raises:
        ConfigError: see ``check_deepspeed``.
    """
    settings_of_run = of_run(optim, batch_size)
    own = check_deepspeed(setting, optim['optimizer'].get('type'), settings_of_run)
    zero = own.get('zero_optimization') or {}
    for key in [key for key in zero if zero[key] == 'auto']:
        del zero[key]
        if width is not None:
            zero[key] = _SIZES[key](width)
    defaults = {
        # The loop passes micro-batches one by one and says which is the last of a step.
        'train_micro_batch_size_per_gpu': 1,
        'gradient_accumulation_steps': 1,
        'gradient_clipping': settings_of_run['gradient_clipping'],
        'bf16': {'enabled': settings_of_run['bf16.enabled']},
        'fp16': {'enabled': settings_of_run['fp16.enabled']},
        # torch's AdamW: DeepSpeed's own is compiled at the first run, for minutes.
        'zero_allow_untested_optimizer': True,
        'zero_force_ds_cpu_optimizer': False,
        'steps_per_print': 10**9,
    }
    parts = {part: {**defaults[part], **(own.get(part) or {})} for part in ('bf16', 'fp16')}
    return {**defaults, **own, **parts}


def of_run(optim: Mapping[str, Any], batch_size: int | None = None) -> dict[str, Any]:
    """What a run's config says, by DeepSpeed's names.

    Args:
        optim: ``optim_wrapper``.
        batch_size: of ``train_dataloader``.
    """
    dtype = optim.get('dtype')
    return {
        'gradient_accumulation_steps': optim.get('accumulative_counts', 1),
        'gradient_clipping': float((optim.get('clip_grad') or {}).get('max_norm', 0.0)),
        'bf16.enabled': dtype == 'bfloat16',
        'fp16.enabled': dtype == 'float16',
        **({} if batch_size is None else {'train_micro_batch_size_per_gpu': batch_size}),
    }


def _copy(value: Any) -> Any:
    return dict(value) if isinstance(value, dict) else value
