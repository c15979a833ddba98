"""Keeps the last K checkpoints and the best one."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook

from mmft.engine.run_folder import (
    candidates,
    iteration_of,
    link_atomic,
    point_to,
    read_checkpoint,
    remove_leftovers,
)
from mmft.engine.strategies.collectives import barrier, is_main, main_decides
from mmft.errors import CheckpointError, ConfigError
from mmft.registry import HOOKS, METRICS

__all__ = ['CheckpointHook']

BEST = 'best.pth'


@HOOKS.register_module()
class CheckpointHook(Hook):
    """Writes ``iter_N.pth`` at intervals and at the end, ``best.pth`` after validation, and ``last_checkpoint``.

    Every write is whole or absent (``run_folder.write_atomic``), and old files go only after the new one is there.

    Args:
        interval: every so many epochs (iterations with ``by_epoch=False``); 0: at the end only.
        by_epoch: what ``interval`` counts.
        max_keep_ckpts: how many of ``iter_N.pth`` stay; -1 all.
        save_best: ``loss``, or one of ``val_cfg.metrics``; ``auto`` takes the first of these where answers are
            generated, else ``loss``; None keeps no best. Of equals the one of lower loss is best.
    """

    priority = 'VERY_LOW'  # after the schedulers' step, which belongs to the iteration

    def __init__(
        self, interval: int = 1, by_epoch: bool = True, max_keep_ckpts: int = 3, save_best: str | None = 'auto'
    ) -> None:
        if save_best not in (None, 'auto', 'loss') and METRICS.get(save_best) is None:
            raise ConfigError(
                f'save_best={save_best!r}: {METRICS.unknown(save_best).what}',
                expected=f"'auto', 'loss', None or one of {METRICS.names()}",
                fix=METRICS.unknown(save_best).fix,
            )
        if max_keep_ckpts == 0 or interval < 0:
            raise ConfigError(
                f'CheckpointHook(interval={interval}, max_keep_ckpts={max_keep_ckpts})',
                expected='interval >= 0 and max_keep_ckpts >= 1 (or -1: all)',
            )
        self.interval, self.by_epoch = interval, by_epoch
        self.max_keep_ckpts, self.save_best = max_keep_ckpts, save_best
        self.saved_at = -1

    def before_train(self, runner: Any) -> None:
        """What is resumed need not be written again; what an earlier run left here is not this run's.

        Raises:
            ConfigError: ``save_best`` asks for what no validation of this run will give.
        """
        self.saved_at = runner.iter if runner.iter else -1
        self._check_metric(runner)
        kept = main_decides(_is_own_best(runner) if is_main() else None)
        if not is_main():
            runner.best = runner.best if kept else {}
            return
        directory = Path(runner.work_dir)
        remove_leftovers(directory)
        best = directory / BEST
        if best.exists() and not kept:
            aside = directory / f'best_before_{runner.run}.pth'
            os.replace(best, aside)
            runner.logger.warning(f'{best} is not of this run: renamed to {aside.name}')
        if runner.best and not kept:
            runner.logger.warning(
                f'the best checkpoint so far is not in {directory}: the next validation starts afresh'
            )
            runner.best = {}
        if others := candidates(directory):
            # The pointer is this run's from here on: killed before its first checkpoint, it must not resume another's.
            start = directory / f'iter_{runner.iter}.pth'
            point_to(directory, start.name if start in others else None, runner.run)
            if start not in others:
                names = ', '.join(file.name for file in others)
                runner.logger.warning(
                    f'{directory} holds checkpoints of another run ({names}): they stay until this run writes the same '
                    f'names or deletes its oldest; to continue that run instead, --resume its file'
                )

    def _check_metric(self, runner: Any) -> None:
        if self.save_best in (None, 'auto'):
            return
        why = ''
        if runner.val_loop is None or not runner.train_loop.val_interval:
            why = 'there is no validation'
        elif self.save_best != 'loss' and runner.val_loop.max_samples == 0:
            why = 'no answer is generated (val_cfg.max_samples=0)'
        elif self.save_best not in ('loss', *runner.val_loop.metrics):
            why = f'val_cfg.metrics={list(runner.val_loop.metrics)}'
        if why:
            raise ConfigError(
                f'CheckpointHook(save_best={self.save_best!r}), but {why}',
                expected='a metric that the validation of this run gives',
                fix='set val_dataloader (and train_cfg.val_interval, val_cfg.max_samples, val_cfg.metrics), or '
                "save_best='auto'",
            )

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Mapping[str, Any] | None = None
    ) -> None:
        if not self.by_epoch and self.interval and (runner.iter + 1) % self.interval == 0:
            self.save(runner, runner.iter + 1)

    def after_train_epoch(self, runner: Any) -> None:
        ends = runner.epoch + 1
        if self.by_epoch and self.interval and ends % self.interval == 0:
            self.save(runner, runner.iter)

    def after_train(self, runner: Any) -> None:
        self.save(runner, runner.iter)

    def after_val_epoch(self, runner: Any, metrics: Mapping[str, float] | None = None) -> None:
        """Keep the best."""
        metrics = metrics or {}
        name = self.save_best
        if name == 'auto':
            name = next((metric for metric in runner.val_loop.metrics if metric in metrics), 'loss')
        if name is None or name not in metrics:
            return
        now = {
            'metric': name,
            'value': metrics[name],
            'loss': metrics.get('loss'),
            'iter': runner.iter,
            'run': runner.run,
            'data': getattr(runner.val_loop.dataloader.dataset, 'fingerprint', None),
        }
        if math.isnan(now['value']) or not _better(now, runner.best):
            return
        runner.best = now
        directory = Path(runner.work_dir)
        newest = directory / f'iter_{runner.iter}.pth'
        if self.saved_at == runner.iter and newest.is_file():
            if is_main():
                link_atomic(newest, directory / BEST)
            barrier()
        else:
            runner.save_checkpoint(directory, BEST)
        runner.logger.info(f'best {name} so far: {metrics[name]:.4g}, kept as {BEST}')

    def save(self, runner: Any, done: int) -> None:
        """Write the checkpoint of ``done`` iterations, point to it, delete the oldest."""
        if self.saved_at == done:
            return
        directory = Path(runner.work_dir)
        path = runner.save_checkpoint(directory, f'iter_{done}.pth')
        self.saved_at = done
        if not is_main():
            return
        point_to(directory, path.name)
        if self.max_keep_ckpts > 0:
            own = [file for file in candidates(directory) if iteration_of(file) < done]
            for old in own[self.max_keep_ckpts - 1 :]:
                old.unlink(missing_ok=True)
        runner.logger.info(f'saved {path}')


def _better(now: Mapping[str, Any], best: Mapping[str, Any]) -> bool:
    """Whether a validation beats the best so far: by another metric, or on other data, nothing is known to."""
    if not best or any(best.get(key, now[key]) != now[key] for key in ('metric', 'data')):
        return True
    value, least = now['value'], best['value']
    if value == least:
        return _loss(now) < _loss(best)
    return value < least if now['metric'] == 'loss' else value > least


def _loss(validation: Mapping[str, Any]) -> float:
    loss = validation.get('loss')
    return math.inf if loss is None else loss


def _is_own_best(runner: Any) -> bool:
    """Whether the best checkpoint in the folder is of what this run continues: its record, or of the same run."""
    try:
        meta = read_checkpoint(Path(runner.work_dir) / BEST, mmap=True)['meta']
    except CheckpointError:
        return False
    done, run, best = meta.get('iter', 0), meta.get('run'), runner.best
    recorded = bool(best) and (done, run) == (best['iter'], best.get('run'))
    # Of the run whose checkpoint is resumed, and from before it: written between that checkpoint and the kill.
    return recorded or (run == runner.continues and done <= runner.iter)
