"""The few collectives that training needs; without a process group each is the identity."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mmft.checks import count_in_environment
from mmft.errors import ConfigError
from mmft.models.buffers import moving_buffers

__all__ = ['check_launched_alone', 'gather', 'is_main', 'main_decides', 'rank', 'sum_over_ranks', 'unwrap',
           'world_size', 'wrap_ddp']  # fmt: skip


_LAUNCHED = (
    # Who tells a process how many there are, under which names, and what to type to have it followed. srun's first: it
    # may set PMI's, too; and of srun's the number of the step, where a job of many tasks runs a single one by hand.
    (('SLURM_STEP_NUM_TASKS', 'SLURM_NTASKS'), 'srun', '--launcher slurm'),
    (('OMPI_COMM_WORLD_SIZE',), 'mpirun', '--launcher mpi'),
    (('WORLD_SIZE',), 'torchrun or deepspeed', '--launcher pytorch, or --deepspeed zero2,'),
    (('PMI_SIZE', 'MV2_COMM_WORLD_SIZE'), 'mpiexec', ''),
)


def check_launched_alone(deepspeed: bool = False, environment: Mapping[str, str] = os.environ) -> None:
    """Refuse to train alone in one of several processes that a launcher started: each would be a whole run, and all
    would write into one folder.

    Args:
        deepspeed: whether the run uses DeepSpeed, which follows RANK and WORLD_SIZE by itself.

    Raises:
        ConfigError: says what to type; or such a name holds no number.
    """
    if deepspeed and {'RANK', 'WORLD_SIZE'} <= environment.keys():
        return
    for names, starter, option in _LAUNCHED:
        name = next((name for name in names if environment.get(name)), None)
        if name is None or count_in_environment(name, 1, environment=environment) < 2:
            continue
        follow = f'add {option} to train together' if option else 'start it with torchrun --nproc_per_node=N'
        raise ConfigError(
            f'{name}={environment[name]} in the environment: {starter} started {environment[name]} processes, but no '
            'launcher is named, and each would be a run of its own in the same folder',
            fix=f'{follow}; add --launcher none if this process is to train alone',
        )


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


def wrap_ddp(model: nn.Module, find_unused_parameters: bool = False) -> nn.Module:
    """``model`` under DistributedDataParallel: of its GPU, or of the CPU, where ``device_ids`` must be None."""
    device = next(model.parameters()).device
    device_ids = [count_in_environment('LOCAL_RANK', 0)] if device.type == 'cuda' else None
    return nn.parallel.DistributedDataParallel(
        model,
        device_ids=device_ids,
        broadcast_buffers=bool(moving_buffers(model)),
        find_unused_parameters=find_unused_parameters,
    )


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel or a DeepSpeed engine."""
    return model.module if hasattr(model, 'module') and isinstance(model.module, nn.Module) else model


def model_device(model: nn.Module) -> torch.device:
    """Where the model's first parameter lies."""
    return next(model.parameters()).device
