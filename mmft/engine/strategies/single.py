"""One process with one device."""

from __future__ import annotations

from mmengine.device import get_device
from torch import nn

from mmft.engine.optim import OptimWrapper, build_optim_wrapper
from mmft.engine.out_of_memory import explained
from mmft.engine.strategies.base import LESS_FOR_WEIGHTS, Strategy
from mmft.registry import STRATEGIES

__all__ = ['SingleStrategy']


@STRATEGIES.register_module('single')
class SingleStrategy(Strategy):
    """The model on the GPU, or on the CPU where there is none."""

    def prepare(self, model: nn.Module) -> tuple[nn.Module, OptimWrapper]:
        with explained(lambda: 'when the weights were put on the GPU', LESS_FOR_WEIGHTS):
            model = model.to(get_device())
        return model, build_optim_wrapper(model, self.cfg.optim_wrapper)
