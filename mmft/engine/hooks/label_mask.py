"""The label mask of the first sample, in colour, before the first step."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook

from mmft.engine.distributed import is_main
from mmft.registry import HOOKS
from mmft.structures import Sample

__all__ = ['LabelMaskHook']


@HOOKS.register_module()
class LabelMaskHook(Hook):
    """Shows what is trained: a wrong template or mask is seen here, before it costs a night."""

    def before_train(self, runner: Any) -> None:
        if runner.encoder is None or runner.iter or not is_main():
            return
        dataset = runner.train_dataloader.dataset
        samples = (dataset[i] for i in range(len(dataset)))
        sample: Sample | None = next((s for s in samples if s is not None), None)
        if sample is not None:
            runner.logger.info('the first sample, as it is trained:\n' + runner.encoder.render_mask(sample))
