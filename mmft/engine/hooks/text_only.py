"""Samples without a picture, where only pictures reach what trains: reported before the first step, and counted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.hooks import Hook

from mmft.engine.loops import has_pictures
from mmft.engine.optim import group_of, trained_parameters
from mmft.engine.strategies.collectives import model_device, sum_over_ranks, unwrap
from mmft.errors import TrainingError
from mmft.registry import HOOKS
from mmft.words import count_of

__all__ = ['TextOnlyHook']


@HOOKS.register_module()
class TextOnlyHook(Hook):
    """Says what samples without a picture do for a run that trains the vision tower or the projector.

    With a frozen language model they give no gradient: their tokens count in the loss, and in what the sum of a step is
    divided by, like all others, and nothing moves. Data without any picture can then train nothing.
    """

    priority = 'LOW'

    def __init__(self) -> None:
        self.frozen = False
        self.batches = self.empty = 0

    def before_train(self, runner: Any) -> None:
        """
        Raises:
            TrainingError: no sample has a picture, and only pictures reach what trains.
        """
        parts = {group_of(name).split('.')[0] for name in trained_parameters(unwrap(runner.model))}
        self.frozen = 'llm' not in parts
        images = getattr(runner.train_loop.dataloader.dataset, 'num_images', None)
        parts = ' and '.join(sorted(parts - {'llm'}))
        if images is None or not parts:
            return
        samples, without = len(images), int((images == 0).sum())
        if samples == without:
            what = f'none of the {count_of(samples, "sample")} has a picture, and only pictures train the {parts}'
            if self.frozen:
                raise TrainingError(
                    what,
                    expected='samples with pictures, as the language model is frozen',
                    fix="open the language model in `tune`, such as llm='lora', or add samples with pictures",
                )
            runner.logger.warning(f'{what}: only the language model learns')
        elif without and self.frozen:
            runner.logger.warning(
                f'{without:,} of {count_of(samples, "sample")} have no picture: with a frozen language model they give '
                f'no gradient'
            )

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Mapping[str, Any] | None = None
    ) -> None:
        self.batches += len(data_batch)
        self.empty += sum(not has_pictures(batch) for batch in data_batch)

    def after_train_epoch(self, runner: Any) -> None:
        self.tell(runner)

    def after_train(self, runner: Any) -> None:
        self.tell(runner)

    def tell(self, runner: Any) -> None:
        """How many micro-batches of all ranks gave no gradient since the last time."""
        if not self.frozen:
            return
        counts = torch.tensor([self.empty, self.batches], device=model_device(runner.model))
        empty, batches = sum_over_ranks(counts).tolist()
        self.empty = self.batches = 0
        if empty:
            runner.logger.info(
                f'{empty:,} of {count_of(batches, "micro-batch", "micro-batches")} had no picture and gave no gradient'
            )
