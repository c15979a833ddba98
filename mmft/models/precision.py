"""Dtypes of a model: of all that a directory holds of it, and autocast where its weights have two dtypes."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from mmft.models.buffers import tensors_of

__all__ = ['mixed_autocast', 'store_as_']


def store_as_(model: nn.Module, dtype: torch.dtype) -> None:
    """Give parameters and persistent buffers ``dtype``, in place, as a directory that stores it would.

    Rope tables and pixel means, which every model computes anew, keep float32: ``model.to(dtype)`` would round them,
    and the model would train with other ones than its export has.
    """
    for tensor in tensors_of(model).values():
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)


def mixed_autocast(model: nn.Module, device: torch.device) -> AbstractContextManager:
    """Autocast to the 16 bits of a model whose trained weights are float32, as ``apply_tune`` leaves them.

    Does nothing where all weights have one dtype, or the caller has autocast on.
    """
    kinds = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    low = next((kind for kind in (torch.bfloat16, torch.float16) if kind in kinds), None)
    if low is None or torch.float32 not in kinds or torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, dtype=low)
