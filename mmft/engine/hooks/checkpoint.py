"""Keeps the last K checkpoints and the best one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook

from mmft.engine.checkpoint import POINTER, candidates, iteration_of, link_atomic, remove_leftovers, write_atomic
from mmft.engine.distributed import barrier, is_main
from mmft.errors import ConfigError
from mmft.registry import HOOKS

__all__ = ['CheckpointHook']

BIGGER_IS_BETTER = {'exact_match': True, 'loss': False}


@HOOKS.register_module()
class CheckpointHook(Hook):
    """Writes ``iter_N.pth`` at intervals and at the end, ``best.pth`` after validation, and ``last_checkpoint``.

    Every write is whole or absent (``checkpoint.write_atomic``), and old files go only after the new one is there.

    Args:
        interval: every so many epochs (iterations with ``by_epoch=False``); 0: at the end only.
        by_epoch: what ``interval`` counts.
        max_keep_ckpts: how many of ``iter_N.pth`` stay; -1 all.
        save_best: metric of the validation, ``exact_match`` or ``loss``; ``auto`` takes the first of these there is;
            None keeps no best.
    """

    priority = 'VERY_LOW'  # after the schedulers' step, which belongs to the iteration

    def __init__(
        self, interval: int = 1, by_epoch: bool = True, max_keep_ckpts: int = 3, save_best: str | None = 'auto'
    ) -> None:
        if save_best not in (None, 'auto', *BIGGER_IS_BETTER):
            raise ConfigError(f'save_best={save_best!r}', expected=f'auto, {", ".join(BIGGER_IS_BETTER)} or None')
        if max_keep_ckpts == 0 or interval < 0:
            raise ConfigError(
                f'CheckpointHook(interval={interval}, max_keep_ckpts={max_keep_ckpts})',
                expected='interval >= 0 and max_keep_ckpts >= 1 (or -1: all)',
            )
        self.interval, self.by_epoch = interval, by_epoch
        self.max_keep_ckpts, self.save_best = max_keep_ckpts, save_best
        self.saved_at = -1

    def before_train(self, runner: Any) -> None:
        """What is resumed need not be written again."""
        self.saved_at = runner.iter if runner.iter else -1
        if not is_main():
            return
        directory = Path(runner.work_dir)
        remove_leftovers(directory)
        if others := candidates(directory):
            # The pointer is this run's from here on: killed before its first checkpoint, it must not resume another's.
            start = directory / f'iter_{runner.iter}.pth'
            write_atomic(start.name if start in others else '', directory / POINTER)
            if start not in others:
                names = ', '.join(file.name for file in others)
                runner.logger.warning(
                    f'{directory} holds checkpoints of another run ({names}): they stay until this run writes the same '
                    f'names or lets go of old ones; to go on with that run instead, --resume its file'
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
        name = next((m for m in BIGGER_IS_BETTER if m in metrics), None) if self.save_best == 'auto' else self.save_best
        if name is None or name not in metrics:
            return
        value, best = metrics[name], runner.best
        comparable = bool(best) and best['metric'] == name
        better = not comparable or (value > best['value'] if BIGGER_IS_BETTER[name] else value < best['value'])
        if not better:
            return
        runner.best = {'metric': name, 'value': value, 'iter': runner.iter}
        directory = Path(runner.work_dir)
        newest = directory / f'iter_{runner.iter}.pth'
        if self.saved_at == runner.iter and newest.is_file():
            if is_main():
                link_atomic(newest, directory / 'best.pth')
            barrier()
        else:
            runner.save_checkpoint(directory, 'best.pth')
        runner.logger.info(f'best {name} so far: {value:.4g}, kept as best.pth')

    def save(self, runner: Any, done: int) -> None:
        """Write the checkpoint of ``done`` iterations, point to it, let go of the oldest."""
        if self.saved_at == done:
            return
        directory = Path(runner.work_dir)
        path = runner.save_checkpoint(directory, f'iter_{done}.pth')
        self.saved_at = done
        if not is_main():
            return
        write_atomic(path.name, directory / POINTER)
        if self.max_keep_ckpts > 0:
            own = [file for file in candidates(directory) if iteration_of(file) < done]
            for old in own[self.max_keep_ckpts - 1 :]:
                old.unlink(missing_ok=True)
        runner.logger.info(f'saved {path}')
