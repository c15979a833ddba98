"""Proof, after the first step, that what should train moved and that what is frozen did not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.hooks import Hook
from torch import Tensor, nn

from mmft.engine.optim import group_of
from mmft.engine.strategies.collectives import gather, unwrap
from mmft.errors import TrainingError
from mmft.registry import HOOKS
from mmft.words import count_of

__all__ = ['MovedPartsHook']

PROBE = 4096
"""Values watched of each tensor: an optimizer step moves all of a tensor or nothing of it."""

LIMIT = 20
"""After this many times ``patience`` iterations the watch ends in any case: it copies values at every iteration."""


@HOOKS.register_module()
class MovedPartsHook(Hook):
    """Watches the first steps of a run.

    Every trained part has to move, and every block of it that trains; nothing that is frozen may. It then says which
    blocks of each trained part moved and which did not: what ``from_layer`` opened, and what it left frozen.

    A warm-up may begin with steps too small for float32, so a part has some iterations to move. Iterations without a
    picture, and float16 steps that the scaler leaves out, do not count; where these are nearly all, a warning ends the
    watch.

    Args:
        patience: iterations until a part that has not moved is an error.
    """

    priority = 'BELOW_NORMAL'

    def __init__(self, patience: int = 10) -> None:
        self.patience = patience
        self.steps = self.watched = 0
        self.before: dict[str, Tensor] = {}

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if not self.steps:
            self.before = _probe(unwrap(runner.model))

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Mapping[str, Any] | None = None
    ) -> None:
        if not self.before:
            return
        self.steps += 1
        pictures = any(batch.get('pixel_values') is not None for batch in data_batch or ())
        self.watched += pictures and math.isfinite((outputs or {}).get('grad_norm', 0.0))
        model = unwrap(runner.model)
        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        moved = {name for name, now in _probe(model).items() if not torch.equal(now, self.before[name])}
        moved = set().union(*gather(moved))  # under ZeRO-3 a small tensor lies on some of the ranks only
        parts = {group_of(name) for name in trained if name in self.before}
        layers = _layers(model)
        watched = {layers[name] for name in trained & layers.keys() if name in self.before}
        seen = {layers[name] for name in moved & layers.keys()}
        still = parts - {group_of(name) for name in moved & trained}
        still |= {f'{part} layer {number}' for part, number in watched - seen if part not in still}
        if wrong := sorted(moved - trained):
            raise TrainingError(
                f'{len(wrong)} frozen parameters changed in the first {count_of(self.steps, "iteration")}: {wrong[:3]}',
                expected='frozen parts stay as they are',
                fix='a hook or a module writes to its weights in forward; take it out, or open the part in `tune`',
            )
        if not still:
            frozen = sorted({group_of(name) for name in self.before} - parts)
            runner.logger.info(
                f'after {count_of(self.steps, "iteration")}: moved {", ".join(sorted(parts))}; '
                f'unchanged {", ".join(frozen) or "nothing"}{_blocks_moved(layers, watched, seen)}'
            )
            self.before = {}
        elif self.watched >= self.patience:
            raise TrainingError(
                f'{", ".join(sorted(still))} should train, but did not move in '
                f'{count_of(self.watched, "iteration")} with pictures',
                expected='every trained part changes',
                fix='look at its learning rate (lr/<part> in the log) and whether the data reaches it',
            )
        elif self.steps >= LIMIT * self.patience:
            runner.logger.warning(
                f'{", ".join(sorted(still))} should train, but did not move in {count_of(self.steps, "iteration")}; '
                f'{self.watched:,} of them had pictures and a finite gradient. This is not checked any longer.'
            )
            self.before = {}


def _layers(model: nn.Module) -> dict[str, tuple[str, int]]:
    """Name of a parameter -> part and number of the block it is in."""
    blocks: dict[int, tuple[str, int]] = {}
    for part, module in getattr(model, 'parts', {}).items():
        for number, block in enumerate(getattr(module, 'layers', ())):
            blocks |= dict.fromkeys(map(id, block.parameters()), (part, number))
    return {name: blocks[id(p)] for name, p in model.named_parameters() if id(p) in blocks}


def _blocks_moved(
    layers: Mapping[str, tuple[str, int]], watched: set[tuple[str, int]], moved: set[tuple[str, int]]
) -> str:
    """Which blocks moved and which did not, of each part that trains."""
    lines = []
    for part in dict.fromkeys(part for part, _ in sorted(watched)):
        every = {number for name, number in layers.values() if name == part}
        own = {number for name, number in moved if name == part}
        rest = f', {ranges(every - own)} did not' if every - own else ' (all)'
        lines.append(f'\n  {part}: layers {ranges(own)} moved{rest}')
    return ''.join(lines)


def ranges(numbers: set[int]) -> str:
    """Whole numbers as people write them.

    >>> ranges({0, 1, 2, 5, 7, 8})
    '0-2, 5, 7-8'
    """
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ', '.join(str(first) if first == last else f'{first}-{last}' for first, last in runs)


def _probe(model: nn.Module) -> dict[str, Tensor]:
    """The first values of each parameter, on the CPU; under ZeRO-3, which leaves it empty, of this rank's piece."""
    pieces = {name: getattr(parameter, 'ds_tensor', parameter) for name, parameter in model.named_parameters()}
    return {name: piece.detach().flatten()[:PROBE].clone().cpu() for name, piece in pieces.items()}
