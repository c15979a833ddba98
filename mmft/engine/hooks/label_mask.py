"""The label mask of the first sample before the first step: in colour on a terminal, in brackets elsewhere."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook

from mmft.engine.strategies.collectives import is_main
from mmft.registry import HOOKS
from mmft.structures import Sample
from mmft.words import printable

__all__ = ['LabelMaskHook']


@HOOKS.register_module()
class LabelMaskHook(Hook):
    """Shows what is trained: a wrong template or mask is seen here, before it wastes a run."""

    def before_train(self, runner: Any) -> None:
        if runner.encoder is None or runner.iter or not is_main():
            return
        dataset = runner.train_dataloader.dataset
        samples = (dataset[i] for i in range(len(dataset)))
        sample: Sample | None = next((s for s in samples if s is not None), None)
        if sample is not None:
            stretches = runner.encoder.describe(sample)
            marked = ''.join(f'[{text}]' if trained else text for text, trained in stretches)
            title = 'the first sample, as it is trained'
            runner.logger.info(
                f'{title} (in green):\n{runner.encoder.render_mask(sample)}',
                extra={'plain': f'{title} (in brackets):\n{printable(marked)}'},
            )
