"""Several processes that a launcher started, and that nothing in the command or the config lets train together."""

from __future__ import annotations

import os
from collections.abc import Mapping

from mmft.checks import count_in_environment
from mmft.errors import ConfigError

__all__ = ['check_launched_alone']

_LAUNCHED = (
    # Who tells a process how many there are, under which names, and the option that makes mmft follow. srun's first: it
    # may set PMI's, too; and of srun's the number of the step, where a job of many tasks runs a single one by hand.
    (('SLURM_STEP_NUM_TASKS', 'SLURM_NTASKS'), 'srun', '--launcher slurm'),
    (('OMPI_COMM_WORLD_SIZE',), 'mpirun', '--launcher mpi'),
    (('WORLD_SIZE',), 'torchrun or deepspeed', '--launcher pytorch, or --deepspeed zero2,'),
    (('PMI_SIZE', 'MV2_COMM_WORLD_SIZE'), 'mpiexec', ''),
)


def check_launched_alone(launcher: str = 'none', environment: Mapping[str, str] = os.environ) -> None:
    """Refuse to train alone in one of several processes that a launcher started: each would be a whole run, and all
    would write into one folder.

    Args:
        launcher: that of the run's strategy; DeepSpeed follows RANK and WORLD_SIZE even where the config names none.

    Raises:
        ConfigError: says what to type; or such a name holds no number.
    """
    if launcher == 'pytorch' and {'RANK', 'WORLD_SIZE'} <= environment.keys():
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
