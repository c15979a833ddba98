"""The one place for workarounds of other libraries. Each says what breaks, in which version, and why this fixes it.

What must happen before anything else is imported is in mmft/quiet.py. tests/engine/test_compat.py fails when a library
no longer needs its workaround: take it out then.
"""

from __future__ import annotations

import atexit
import datetime
import importlib.util
import os
import time
from typing import Any

from mmft.checks import count_in_environment
from mmft.errors import ConfigError

__all__ = [
    'LAUNCHERS',
    'find_bases_without_pkg_resources',
    'init_distributed',
    'leave_distributed',
    'link_optimizer_states',
    'without_deepspeed_compilation',
    'worker_error',
]


LAUNCHERS = {
    'pytorch': ('torchrun --nproc_per_node=8', ('RANK', 'WORLD_SIZE'), ('LOCAL_RANK',)),
    'slurm': ('srun --ntasks=8 python', ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID'), ('SLURM_NODELIST',)),
    'mpi': (
        'mpirun -n 8 -x MASTER_ADDR=<first machine> python',
        ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK'),
        ('MASTER_ADDR',),
    ),
}
"""Launcher -> the command that starts with it, what it tells each process, and what mmengine reads beside that on GPUs.
The names of rank, number of processes and rank on the machine come in this order."""


def init_distributed(launcher: str, timeout: float | None = None) -> None:
    """Join the process group, on a machine with or without GPUs.

    mmengine 0.10.7 calls ``torch.cuda.set_device`` whatever the launcher and whatever the machine, which raises where
    there is no GPU. With GPUs mmengine's own ``init_dist`` does it.

    Args:
        launcher: ``pytorch`` (torchrun), ``slurm`` or ``mpi``.
        timeout: seconds until a collective gives up.

    Raises:
        ConfigError: the launcher did not start this process.
    """
    import torch

    cuda = torch.cuda.is_available()
    _check_started(launcher, cuda)
    options = {} if timeout is None else {'timeout': timeout}
    if cuda:
        from mmengine.dist import init_dist

        init_dist(launcher, backend='nccl', **options)
        return
    if launcher != 'pytorch':
        for target, source in zip(('RANK', 'WORLD_SIZE', 'LOCAL_RANK'), LAUNCHERS[launcher][1], strict=True):
            os.environ[target] = os.environ[source]
    os.environ.setdefault('MASTER_ADDR', '127.0.0.1')
    os.environ.setdefault('MASTER_PORT', '29500')
    if timeout is not None:
        options['timeout'] = datetime.timedelta(seconds=timeout)
    torch.distributed.init_process_group('gloo', **options)
    atexit.register(leave_distributed)


def leave_distributed() -> None:
    """Leave the process group, where there is one, so that the interpreter can end.

    torch 2.12's gloo threads take the GIL to release the tensors of a finished collective. Python 3.11 ends a thread
    that asks for it while the interpreter ends, and in the middle of C++ that is SIGABRT ("terminate called without an
    active exception") at the end of a run that has gone well. Destroying the group joins its threads; but
    DistributedDataParallel never releases it, and then only a pause, in which nothing holds the GIL, is left.
    """
    import torch

    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    gloo = torch.distributed.get_backend() == 'gloo'
    torch.distributed.destroy_process_group()
    if gloo:
        time.sleep(0.2)


def _check_started(launcher: str, cuda: bool) -> None:
    """What a launcher tells its processes in the environment is there; without it a ``KeyError`` would be all."""
    if launcher not in LAUNCHERS:
        raise ConfigError(f'launcher = {launcher!r}', expected=f"'none' or one of {list(LAUNCHERS)}")
    start, names, on_gpus = LAUNCHERS[launcher]
    missing = [name for name in (*names, *(on_gpus if cuda else ())) if name not in os.environ]
    if missing:
        raise ConfigError(
            f'--launcher {launcher}, but {", ".join(missing)} not in the environment',
            expected=f'a process that {start.split()[0]} started',
            fix=f'{start} tools/train.py CONFIG --launcher {launcher}; without a launcher leave the option out',
        )
    # What mmengine and torch read with a bare int().
    rank, size = count_in_environment(names[0], 0), count_in_environment(names[1], 1, least=1)
    for name in (*names[2:], 'LOCAL_RANK', 'MASTER_PORT'):
        count_in_environment(name, 0)
    if rank >= size:
        raise ConfigError(
            f'{names[0]}={rank} and {names[1]}={size} in the environment',
            expected=f'ranks from 0 to {size - 1}',
            fix=f'start all processes with {start.split()[0]}',
        )


def find_bases_without_pkg_resources() -> None:
    """Let ``read_base`` find the package of an absolute import as Python finds it.

    mmengine 0.10.7 asks ``pkg_resources``: setuptools 80 prints a deprecation warning at every command, setuptools 82
    has no such module, and of a package installed in place it names a folder that does not exist.
    """
    from mmengine.config import config

    config.get_installed_path = _package_folder


def _package_folder(package: str) -> str:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f'No module named {package!r} that is a package', name=package)
    return str(spec.submodule_search_locations[0])


def without_deepspeed_compilation() -> None:
    """Keep deepspeed 0.19.8 from compiling a C++ extension at its first ``initialize`` on a CPU.

    It builds ``deepspeed_shm_comm`` with g++ (38-70 s, and an error without a compiler) only to make all-reduce faster
    between processes of one machine; without it gloo does the same work.
    """
    from deepspeed.ops import __compatible_ops__

    __compatible_ops__['deepspeed_shm_comm'] = False


def link_optimizer_states(zero: Any) -> None:
    """Make the Adam states of a fresh ZeRO optimizer readable and writable by parameter.

    deepspeed 0.19.8 (stages 1 and 2) links parameters to their states once, after the step of the first parameter
    group, when the other groups have none: ``safe_get_full_optimizer_state`` then raises for them, and before the
    first step for all. Zero states, which the first step would make itself, are made here, and linked.
    """
    import torch

    inner = zero.optimizer
    pieces = getattr(zero, 'fp32_partitioned_groups_flat', None)  # stage 3
    for piece in pieces or [p for group in inner.param_groups for p in group['params']]:
        moments = {key: torch.zeros_like(piece) for key in ('exp_avg', 'exp_avg_sq')}
        inner.state[piece] = {'step': torch.tensor(0.0), **moments}
    if pieces is None:
        zero._lazy_init_hp_params_optimizer_state()


def worker_error(error: Exception) -> Exception:
    """An error of a data worker as it was raised there.

    torch 2.12's DataLoader raises it again with the worker's whole traceback as its message, which buries what a user
    is to read; the message proper stands after the last line that names the error's class.
    """
    name = f'{type(error).__module__}.{type(error).__qualname__}: '
    text = str(error)
    if not text.startswith('Caught ') or name not in text:
        return error
    return type(error)(text.rpartition(name)[2].strip())
