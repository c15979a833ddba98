"""Each workaround is still needed. When a test here fails, the library was mended: take its workaround out."""

from __future__ import annotations

import importlib
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._utils import ExceptionWrapper

from mmft.engine.compat import LAUNCHERS, init_distributed, worker_error
from mmft.errors import ConfigError, DataError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ('launcher', 'start', 'missing'),
    [
        ('pytorch', 'torchrun --nproc_per_node=8 tools/train.py', 'RANK, WORLD_SIZE'),
        ('slurm', 'srun --ntasks=8 python tools/train.py', 'SLURM_PROCID, SLURM_NTASKS'),
        ('mpi', 'mpirun -n 8 -x MASTER_ADDR=<first machine> python tools/train.py', 'OMPI_COMM_WORLD_RANK'),
    ],
)
def test_a_launcher_that_did_not_start_the_process(
    launcher: str, start: str, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _, told, on_gpus in LAUNCHERS.values():
        for name in (*told, *on_gpus):
            monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError) as caught:
        init_distributed(launcher)
    assert str(caught.value).startswith(f'--launcher {launcher}, but {missing}')
    assert f'{start} CONFIG --launcher {launcher}' in str(caught.value)


@pytest.mark.parametrize('launcher', LAUNCHERS)
@pytest.mark.parametrize(
    ('wrong', 'said'),
    [
        ({0: 'x'}, "='x' in the environment"),
        ({1: '0'}, "='0' in the environment"),
        ({1: '9' * 5000}, '(5,002 characters) in the environment'),
        ({2: '-1'}, "='-1' in the environment"),
        ({0: '2', 1: '2'}, 'ranks from 0 to 1'),
    ],
)
def test_junk_in_a_launchers_environment(
    launcher: str, wrong: dict, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, names, on_gpus = LAUNCHERS[launcher]
    for name in on_gpus:
        monkeypatch.setenv(name, '1')
    for number, name in enumerate((*names, 'LOCAL_RANK')[:3]):
        monkeypatch.setenv(name, wrong.get(number, str(number % 2)))
    with pytest.raises(ConfigError) as caught:
        init_distributed(launcher)
    assert said in str(caught.value)


def test_no_such_launcher() -> None:
    with pytest.raises(ConfigError, match=r"launcher = 'slrum'"):
        init_distributed('slrum')


def test_mmengine_still_asks_pkg_resources() -> None:
    from mmengine.utils import get_installed_path

    assert 'from pkg_resources import' in inspect.getsource(get_installed_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason='the trouble is with machines without a GPU')
def test_mmengine_still_asks_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmengine.dist import init_dist

    for name, value in {'RANK': '0', 'LOCAL_RANK': '0', 'WORLD_SIZE': '1'}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises((RuntimeError, AssertionError), match=r'(?i)cuda|nvidia'):
        init_dist('pytorch', backend='gloo')


def test_mmengine_amp_still_asserts_a_gpu() -> None:
    from mmengine.optim import AmpOptimWrapper

    assert 'is_cuda_available()' in inspect.getsource(AmpOptimWrapper.__init__)


def test_deepspeed_still_links_states_after_the_first_group() -> None:
    from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

    assert '_lazy_init_hp_params_optimizer_state()' in inspect.getsource(DeepSpeedZeroOptimizer._optimizer_step)


def test_deepspeed_still_wants_to_compile_on_a_cpu() -> None:
    from deepspeed.ops import __compatible_ops__

    backend = importlib.import_module('deepspeed.comm.torch')
    assert '__compatible_ops__' in inspect.getsource(backend.build_shm_op)
    assert 'deepspeed_shm_comm' in __compatible_ops__


def test_torch_still_buries_errors_of_workers() -> None:
    """What the DataLoader does with an exception of a worker, without the worker."""
    try:
        raise DataError('no picture', file='a.jsonl', line=3, fix='add it')
    except DataError:
        carried = ExceptionWrapper(where='in DataLoader worker process 0')
    with pytest.raises(DataError) as caught:
        carried.reraise()
    assert str(caught.value).startswith('Caught DataError in DataLoader worker')
    assert str(worker_error(caught.value)) == 'a.jsonl:3: no picture\n  to do:    add it'
    plain = DataError('no picture')
    assert worker_error(plain) is plain


def test_two_import_messages_are_held_back_and_no_others():
    code = (
        'import mmft, logging, bitsandbytes.backends.cpu.ops, deepspeed\n'
        "logging.getLogger('DeepSpeed').warning('Setting accelerator to CPU. If you have GPU')\n"
        "logging.getLogger('DeepSpeed').warning('something else')\n"
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    said = done.stdout + done.stderr
    assert 'something else' in said
    assert 'Setting accelerator' not in said
    assert 'gemm_4bit_forward' not in said


LEAVING = """
import ctypes, mmap, os, socket, sys, time
import torch
from torch.nn.parallel import DistributedDataParallel
from mmft.engine.compat import init_distributed

with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(free.getsockname()[1]), WORLD_SIZE='2')
class Late:  # the interpreter is some time at ending
    def __del__(self, sleep=time.sleep):
        sleep(1)

late = Late()
begun, done = mmap.mmap(-1, 1), mmap.mmap(-1, 1)  # shared between the two
other = os.fork()
os.environ['RANK'] = os.environ['LOCAL_RANK'] = str(int(bool(other)))
init_distributed('pytorch')
model = DistributedDataParallel(torch.nn.Linear(2, 2))
if other:
    sys.setswitchinterval(1000)  # no thread gets the GIL until this one waits for something
    torch.distributed.all_reduce(torch.ones(9), async_op=True)
    begun[0] = 1
    while not done[0]:
        ctypes.PyDLL(None).usleep(10000)  # this keeps the GIL
    ctypes.PyDLL(None).sleep(3)  # meanwhile gloo's thread finishes, and wants to release the tensor
else:
    while not begun[0]:
        time.sleep(0.01)
    torch.distributed.all_reduce(torch.ones(9))
    done[0] = 1
"""


def test_the_end_of_the_interpreter_waits_for_gloos_threads() -> None:
    """Without ``leave_distributed`` this ends with SIGABRT more often than not."""
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'CUDA_VISIBLE_DEVICES': ''}
    command = [sys.executable, '-c', LEAVING]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
