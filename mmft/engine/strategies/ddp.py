"""DistributedDataParallel: every process holds the whole model, gradients are averaged."""

from __future__ import annotations

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mmft.engine.optim import OptimWrapper
from mmft.engine.strategies.single import SingleStrategy
from mmft.models.buffers import moving_buffers
from mmft.registry import STRATEGIES

__all__ = ['DDPStrategy']


@STRATEGIES.register_module('ddp')
class DDPStrategy(SingleStrategy):
    """On GPUs and, unlike under mmengine's wrapper, on CPUs. ``model_wrapper_cfg`` of a config is its own."""

    def prepare(self, model: nn.Module) -> tuple[nn.Module, OptimWrapper]:
        model, optim = super().prepare(model)
        device = next(model.parameters()).device
        wrapped = DistributedDataParallel(
            model,
            device_ids=[device.index] if device.type == 'cuda' else None,  # on a CPU it must be None
            broadcast_buffers=bool(moving_buffers(model)),
            **(self.cfg.get('model_wrapper_cfg') or {}),
        )
        return wrapped, optim
