"""``deepspeed`` of a config, in DeepSpeed's own form: nothing of deepspeed is imported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmft.engine.validate_parts import nearest
from mmft.errors import ConfigError

__all__ = ['STAGES', 'check_deepspeed', 'deepspeed_config']

_CPU = {'device': 'cpu', 'pin_memory': True}
STAGES: dict[str, dict[str, Any]] = {
    'zero1': {'stage': 1},
    'zero2': {'stage': 2},
    'zero3': {'stage': 3},
    'zero2_offload': {'stage': 2, 'offload_optimizer': _CPU},
    'zero3_offload': {'stage': 3, 'offload_optimizer': _CPU, 'offload_param': _CPU},
}
"""Name on the command line -> DeepSpeed's ``zero_optimization``."""


def check_deepspeed(setting: str | Mapping[str, Any], optimizer: Any) -> dict[str, Any]:
    """A setting in DeepSpeed's own form.

    Args:
        setting: as in ``deepspeed_config``.
        optimizer: ``optim_wrapper.optimizer.type`` of the config.

    Raises:
        ConfigError: unknown name, or an optimizer whose state is not Adam's.
    """
    problems: list[ConfigError | str] = []
    own = dict(setting) if isinstance(setting, Mapping) else {}
    if not own:
        name = str(setting).removeprefix('deepspeed_')
        if name in STAGES:
            own = {'zero_optimization': {key: _copy(value) for key, value in STAGES[name].items()}}
        else:
            what = f'deepspeed = {setting!r} names no setting{nearest(name, STAGES)}'
            problems.append(
                ConfigError(what, expected=f"one of {', '.join(STAGES)}, or a dict in DeepSpeed's own form")
            )
    if optimizer not in ('Adam', 'AdamW'):
        what = f'optim_wrapper.optimizer.type = {optimizer!r} with DeepSpeed'
        problems.append(ConfigError(what, expected="'AdamW' or 'Adam'"))
    if problems:
        raise ConfigError.gather(problems)
    return own


def deepspeed_config(setting: str | Mapping[str, Any], optim: Mapping[str, Any]) -> dict[str, Any]:
    """DeepSpeed's config of a run.

    Args:
        setting: a name from ``STAGES`` (also as ``deepspeed_zero2``), or a dict in DeepSpeed's own form, which wins.
        optim: ``optim_wrapper`` of the config: its dtype and clipping are DeepSpeed's too.

    Raises:
        ConfigError: unknown name, or an optimizer whose state is not Adam's.
    """
    own = check_deepspeed(setting, optim['optimizer'].get('type'))
    dtype = optim.get('dtype')
    return {
        # The loop passes micro-batches one by one and says which is the last of a step.
        'train_micro_batch_size_per_gpu': 1,
        'gradient_accumulation_steps': 1,
        'gradient_clipping': float((optim.get('clip_grad') or {}).get('max_norm', 0.0)),
        'bf16': {'enabled': dtype == 'bfloat16'},
        'fp16': {'enabled': dtype == 'float16'},
        # torch's AdamW: DeepSpeed's own is compiled at the first run, for minutes.
        'zero_allow_untested_optimizer': True,
        'zero_force_ds_cpu_optimizer': False,
        'steps_per_print': 10**9,
        **own,
    }


def _copy(value: Any) -> Any:
    return dict(value) if isinstance(value, dict) else value
