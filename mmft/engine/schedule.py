"""Learning-rate schedules, always counted in iterations (optimizer steps)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from mmengine.optim import _ParamScheduler

from mmft.checks import is_number, is_whole, value_problem
from mmft.errors import ConfigError
from mmft.registry import PARAM_SCHEDULERS
from mmft.words import count_of, did_you_mean, near_names, suggested

__all__ = ['MIN_WARMUP', 'WarmupDecayLR', 'advance', 'build_schedulers', 'schedule_problems']

MIN_WARMUP = 2
"""A warm-up of fewer iterations is dropped: over one step mmengine's LinearLR never leaves its start factor."""

DECAYS: dict[str, Callable[[float], float]] = {
    'constant': lambda done: 1.0,
    'linear': lambda done: 1.0 - done,
    'cosine': lambda done: 0.5 * (1.0 + math.cos(math.pi * done)),
}


OPTIONS = ('warmup_ratio', 'warmup', 'min_lr_ratio')


class WarmupDecayLR(_ParamScheduler):
    """Linear warm-up, then decay; closed form, so that a resumed run only needs to know its iteration.

    Args:
        optimizer: wrapper or optimizer; each group keeps its own peak rate.
        decay: ``cosine``, ``linear`` or ``constant``.
        warmup: iterations of warm-up; iteration i runs at (i + 1) / warmup of the peak.
        total: iterations of the whole run.
        min_lr_ratio: the last rate as a part of the peak.
    """

    def __init__(
        self, optimizer: Any, decay: str = 'cosine', warmup: int = 0, total: int = 1, min_lr_ratio: float = 0.0
    ) -> None:
        self.decay, self.warmup, self.total, self.min_lr_ratio = decay, warmup, total, min_lr_ratio
        super().__init__(optimizer, 'lr', by_epoch=False)

    def factor(self, step: int) -> float:
        """Part of the peak rate at iteration ``step``, from 0."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        done = min(1.0, (step - self.warmup) / max(1, self.total - self.warmup))
        return self.min_lr_ratio + (1.0 - self.min_lr_ratio) * DECAYS[self.decay](done)

    def _get_value(self) -> list[float]:
        return [base * self.factor(self.last_step) for base in self.base_values]


def advance(schedulers: Sequence[_ParamScheduler], done: int) -> None:
    """Bring fresh schedulers to where they stand after ``done`` iterations.

    What a checkpoint says of them is not used: the rates are those of the config as it is now. mmengine's schedulers
    make each rate from the one before, so they walk all the way: the same numbers as in an uninterrupted run.
    """
    for scheduler in schedulers:
        scheduler.optimizer._global_step = 0  # mmengine would warn that nothing was stepped yet
    if len(schedulers) == 1 and isinstance(schedulers[0], WarmupDecayLR):
        schedulers[0]._global_step = schedulers[0].last_step = done - 1
        done = min(done, 1)
    for _ in range(done):
        for scheduler in schedulers:
            scheduler.step()


def schedule_problems(cfg: Any) -> Iterator[str]:
    """All that is wrong with ``param_scheduler`` of a config: types, options of our own schedules, their values."""
    if not cfg:
        return
    if isinstance(cfg, Mapping) and _is_decay(cfg):
        yield from _decay_problems(cfg)
        return
    entries = {'param_scheduler': cfg}
    if isinstance(cfg, (list, tuple)):
        entries = {f'param_scheduler.{i}': entry for i, entry in enumerate(cfg)}
    for key, entry in entries.items():
        if not isinstance(entry, Mapping):
            yield f"{key} = {entry!r}; expected dict(type='cosine', warmup_ratio=0.03)"
        elif _is_decay(entry):
            yield f'{key}: {entry["type"]!r} is warm-up and decay in one; write its dict without a list'
        elif PARAM_SCHEDULERS.get(entry.get('type')) is None:
            yield _unknown(f'{key}.type', entry.get('type'))


def _is_decay(cfg: Mapping[str, Any]) -> bool:
    return isinstance(cfg.get('type'), str) and cfg['type'] in DECAYS


def _decay_problems(cfg: Mapping[str, Any]) -> Iterator[str]:
    for key in cfg:
        if key not in ('type', *OPTIONS):
            yield f'param_scheduler.{key}: unknown{did_you_mean(key, OPTIONS)}; expected some of {OPTIONS}'
    ratio, warmup, least = cfg.get('warmup_ratio', 0.0), cfg.get('warmup'), cfg.get('min_lr_ratio', 0.0)
    fits = is_number(ratio, least=0) and ratio < 1
    yield from value_problem('param_scheduler.warmup_ratio', ratio, fits, 'a number from 0 to below 1')
    fits = warmup is None or is_whole(warmup, least=0)
    yield from value_problem('param_scheduler.warmup', warmup, fits, 'a whole number from 0, or None')
    fits = is_number(least, least=0) and least <= 1
    yield from value_problem('param_scheduler.min_lr_ratio', least, fits, 'a number from 0 to 1')


def _unknown(key: str, kind: Any) -> str:
    theirs = PARAM_SCHEDULERS.names()
    # Ours first: by the letters alone 'cosin' is as near to CosineRestartLR.
    near = near_names(kind, DECAYS, cutoff=0.5) or near_names(kind, theirs, cutoff=0.5)
    error = ConfigError(
        f'{key} = {kind!r}: there is no such schedule',
        expected=f"one of {list(DECAYS)}, or of mmengine's {theirs}",
        fix=suggested(near, "take param_scheduler=dict(type='cosine')"),
    )
    return str(error)


def build_schedulers(
    cfg: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None,
    optimizer: Any,
    total: int,
    epoch_length: int,
    say: Callable[[str], None] = print,
) -> list[_ParamScheduler]:
    """The schedulers of ``param_scheduler`` in a config.

    Args:
        cfg: ``dict(type='cosine', warmup_ratio=0.03, min_lr_ratio=0.0)`` (or ``warmup=`` in iterations), or a list of
            mmengine's schedulers. Those counted in epochs are converted to iterations.
        optimizer: the wrapper.
        total: iterations of the run.
        epoch_length: iterations of an epoch.
        say: called with a line for each warm-up that is dropped.

    Raises:
        ConfigError: lists what ``schedule_problems`` finds.
    """
    if problems := [*schedule_problems(cfg)]:
        raise ConfigError.gather(problems)
    if not cfg:
        return []
    if isinstance(cfg, Mapping) and cfg.get('type') in DECAYS:
        return [_warmup_decay(dict(cfg), optimizer, total, say)]
    entries = [cfg] if isinstance(cfg, Mapping) else list(cfg)
    kept = [entry for entry in entries if not _too_short(entry, epoch_length, say)]
    return [_from_mmengine(dict(entry), optimizer, epoch_length) for entry in kept]


def _warmup_decay(cfg: dict[str, Any], optimizer: Any, total: int, say: Callable[[str], None]) -> WarmupDecayLR:
    decay, ratio = cfg.pop('type'), cfg.pop('warmup_ratio', 0.0)
    warmup = cfg.pop('warmup', None)
    min_lr_ratio = cfg.pop('min_lr_ratio', 0.0)
    warmup = round(ratio * total) if warmup is None else warmup
    if 0 < warmup < MIN_WARMUP or (ratio > 0 and warmup == 0):
        of = count_of(total, 'iteration')
        say(f'a warm-up of {warmup} of {of} is too short: dropped, the run starts at the full rate')
        warmup = 0
    return WarmupDecayLR(optimizer, decay, warmup, total, min_lr_ratio)


def _too_short(entry: Mapping[str, Any], epoch_length: int, say: Callable[[str], None]) -> bool:
    """Whether this is a warm-up that rounds to fewer than two iterations."""
    if entry.get('type') not in ('LinearLR', 'ConstantLR', 'LinearParamScheduler') or entry.get('end') is None:
        return False
    unit = epoch_length if entry.get('by_epoch', True) else 1
    steps = int(entry['end'] * unit) - int(entry.get('begin', 0) * unit)
    if steps >= MIN_WARMUP:
        return False
    say(f'param_scheduler {entry["type"]} spans {count_of(steps, "iteration")}, too few to warm up: dropped')
    return True


def _from_mmengine(entry: dict[str, Any], optimizer: Any, epoch_length: int) -> _ParamScheduler:
    if entry.get('by_epoch', True):
        entry.update(by_epoch=True, convert_to_iter_based=True)
    return PARAM_SCHEDULERS.build(entry, default_args={'optimizer': optimizer, 'epoch_length': epoch_length})
