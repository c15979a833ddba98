"""Whether a model's weights are spread over ranks, so that each pass gathers them."""

from __future__ import annotations

from torch import nn

__all__ = ['gathers_weights']


def gathers_weights(module: nn.Module) -> bool:
    """Whether DeepSpeed's ZeRO-3 has marked a weight of the module: then all ranks must run the same passes."""
    return any(hasattr(parameter, 'ds_id') for parameter in module.parameters())
