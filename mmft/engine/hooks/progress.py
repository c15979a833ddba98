"""The output of a run: a progress bar on a terminal, lines elsewhere, and scalars for TensorBoard and similar."""

from __future__ import annotations

import logging
import resource
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import torch
from mmengine.hooks import Hook

from mmft.checks import check_counts
from mmft.engine.optim import group_of
from mmft.engine.strategies.collectives import is_main, unwrap
from mmft.models.tuning import count_values
from mmft.registry import HOOKS
from mmft.words import count_of

__all__ = ['ProgressHook', 'peak_memory_mib']

SECONDS_BETWEEN_LINES = 30
"""Of a validation."""


def peak_memory_mib() -> float:
    """Peak so far: of the GPU's allocations, or of this process's resident memory on a CPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


@HOOKS.register_module()
class ProgressHook(Hook):
    """Losses by name, learning rate per group, gradient norm, tokens per second, peak memory, time left.

    Tokens per second are those of the whole time: the wait for data counts, and its share is shown.

    Args:
        interval: iterations between log lines and scalars (the mean losses of the interval are shown).
        bar: show a bar; None: where standard error is a terminal.
    """

    priority = 'BELOW_NORMAL'  # before the schedulers' step: the rate shown is the one that was used

    def __init__(self, interval: int = 10, bar: bool | None = None) -> None:
        check_counts('ProgressHook', interval=interval)
        self.interval, self.wants_bar = interval, bar
        self.losses: dict[str, list[float]] = {}
        self.tokens, self.waited, self.since, self.started, self.first = 0.0, 0.0, 0.0, 0.0, 0
        self.bar: Any = None
        self.validation: _Validation | None = None
        self.stack = ExitStack()

    def before_train(self, runner: Any) -> None:
        loop, model = runner.train_loop, unwrap(runner.model)
        counts: dict[str, list[int]] = {}
        for name, parameter in model.named_parameters():
            row = counts.setdefault(group_of(name), [0, 0])
            row[0] += count_values(parameter)
            row[1] += count_values(parameter) * parameter.requires_grad
        parts = '\n'.join(
            f'  {part:<16}{total:>16,} parameters, {trained:>14,} trained' for part, (total, trained) in counts.items()
        )
        samples = len(loop.dataloader.dataset)
        runner.logger.info(
            f'{count_of(samples, "sample")} in {count_of(loop.epoch_batches, "micro-batch", "micro-batches")}, '
            f'{loop.accumulative_counts} to an iteration; {count_of(loop.max_iters, "iteration")}\n{parts}'
        )
        self.started = self.since = time.perf_counter()
        self.first = loop.iter
        if is_main() and (sys.stderr.isatty() if self.wants_bar is None else self.wants_bar):
            from tqdm import tqdm
            from tqdm.contrib.logging import logging_redirect_tqdm

            self.bar = self.stack.enter_context(
                tqdm(total=loop.max_iters, initial=loop.iter, dynamic_ncols=True, unit='it')
            )
            self.stack.enter_context(logging_redirect_tqdm([runner.logger]))

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Mapping[str, Any] | None = None
    ) -> None:
        outputs = outputs or {}
        for name, value in outputs.items():
            if name == 'loss' or name.endswith('_loss'):
                self.losses.setdefault(name, []).append(value)
        self.tokens += outputs['tokens']
        self.waited += outputs.get('data_time', 0.0)
        done, total = runner.iter + 1, runner.max_iters
        rates = {name: values[0] for name, values in runner.optim_wrapper.get_lr().items()}
        if self.bar is not None:
            self.bar.set_postfix_str(f'loss {outputs["loss"]:.4f}, grad {outputs["grad_norm"]:.2f}, {_rates(rates)}')
            self.bar.update(1)
        if done % self.interval and done != total:
            return
        now = time.perf_counter()
        losses = {name: sum(values) / len(values) for name, values in self.losses.items()}
        scalars = {
            **{f'train/{name}': value for name, value in losses.items()},
            'train/grad_norm': outputs['grad_norm'],
            'train/tokens_per_second': self.tokens / max(now - self.since, 1e-9),
            'train/data_time_share': min(1.0, self.waited / max(now - self.since, 1e-9)),
            'train/peak_memory_mib': peak_memory_mib(),
            **rates,
        }
        runner.visualizer.add_scalars(scalars, step=done)
        left = (now - self.started) / (done - self.first) * (total - done)
        line = (
            f'iter {done}/{total}, epoch {runner.epoch + 1}/{runner.max_epochs}: '
            f'{", ".join(f"{name} {value:.4f}" for name, value in losses.items())}, '
            f'grad_norm {outputs["grad_norm"]:.3f}, {_rates(rates)}, '
            f'{scalars["train/tokens_per_second"]:,.0f} tokens/s, '
            f'{scalars["train/data_time_share"]:.0%} waiting for data, '
            f'peak {scalars["train/peak_memory_mib"]:,.0f} MiB, {timedelta(seconds=round(left))} left'
        )
        runner.logger.info(line)
        self.losses, self.tokens, self.waited, self.since = {}, 0.0, 0.0, now

    def before_val_epoch(self, runner: Any) -> None:
        self.validation = _Validation(len(runner.val_loop.dataloader), self.bar is not None, runner.logger)

    def after_val_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Mapping[str, Any] | None = None
    ) -> None:
        self.validation.step()

    def after_val_epoch(self, runner: Any, metrics: Mapping[str, float] | None = None) -> None:
        metrics = metrics or {}
        self.validation.close()
        epoch = runner.epoch + 1
        runner.history.append({'iter': runner.iter, 'epoch': epoch, **metrics})
        runner.visualizer.add_scalars({f'val/{name}': value for name, value in metrics.items()}, step=runner.iter)
        shown = ', '.join(f'{name} {value:.4f}' for name, value in metrics.items())
        runner.logger.info(f'validation after iter {runner.iter} (epoch {epoch}): {shown}')
        self.since, self.tokens, self.waited = time.perf_counter(), 0.0, 0.0

    def after_train(self, runner: Any) -> None:
        if len(runner.history) > 1:
            names = [key for key in runner.history[0] if key not in ('iter', 'epoch')]
            rows = [f'{"epoch":>7}{"iter":>9}' + ''.join(f'{name:>17}' for name in names)]
            for row in runner.history:
                rows.append(
                    f'{row["epoch"]:>7}{row["iter"]:>9}' + ''.join(f'{row.get(n, float("nan")):>17.4f}' for n in names)
                )
            runner.logger.info('validations:\n' + '\n'.join(rows))

    def after_run(self, runner: Any) -> None:
        self.close()

    def close(self) -> None:
        """Restore the terminal."""
        self.stack.close()
        self.bar = None


class _Validation:
    """The progress of a validation: a bar where there is one for training, else a line every half minute."""

    def __init__(self, total: int, bar: bool, logger: logging.Logger) -> None:
        self.total, self.done, self.logger = total, 0, logger
        self.started = self.reported = time.perf_counter()
        self.bar: Any = None
        if bar:
            from tqdm import tqdm

            self.bar = tqdm(total=total, desc='validation', dynamic_ncols=True, unit='batch', leave=False, position=1)

    def step(self) -> None:
        """A batch is done."""
        self.done += 1
        if self.bar is not None:
            self.bar.update(1)
            return
        now = time.perf_counter()
        if now - self.reported < SECONDS_BETWEEN_LINES or self.done == self.total:
            return
        left = timedelta(seconds=round((now - self.started) / self.done * (self.total - self.done)))
        self.logger.info(f'validating: {self.done:,} of {count_of(self.total, "batch", "batches")}, {left} left')
        self.reported = now

    def close(self) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.close()


def _rates(rates: Mapping[str, float]) -> str:
    return ', '.join(f'{name} {value:.2e}' for name, value in rates.items())
