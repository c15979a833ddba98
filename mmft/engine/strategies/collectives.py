"""The few collectives that training needs; without a process group each is the identity."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = ['barrier', 'gather', 'initialized', 'is_main', 'main_decides', 'model_device', 'rank', 'sum_over_ranks',
           'unwrap', 'world_size']  # fmt: skip


def initialized() -> bool:
    """Whether several processes train together."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if initialized() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if initialized() else 1


def is_main() -> bool:
    """Whether this process writes files and talks to the user."""
    return rank() == 0


def sum_over_ranks(values: Tensor) -> Tensor:
    """The element-wise sum, on every rank; ``values`` is left as it is."""
    if not initialized():
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total


def gather(value: Any) -> list[Any]:
    """``value`` of every rank, in order, on every rank."""
    if not initialized():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def main_decides(value: Any) -> Any:
    """``value`` of rank 0, on every rank."""
    if not initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def barrier() -> None:
    """Wait for every rank."""
    if initialized():
        dist.barrier()


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel or a DeepSpeed engine."""
    return model.module if hasattr(model, 'module') and isinstance(model.module, nn.Module) else model


def model_device(model: nn.Module) -> torch.device:
    """Where the model's first parameter lies."""
    return next(model.parameters()).device
