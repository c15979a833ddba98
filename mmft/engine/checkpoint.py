"""Training checkpoints: one ``.pth`` that says everything about itself, written so that no crash can harm it.

A file holds tensors and plain Python values only: ``torch.load(path, weights_only=True)`` reads it, and reading it runs
no code. Its keys::

    state_dict        name -> tensor, of all that is trained (LoRA run: adapters, projector, unfrozen layers), of the
                      buffers that move with it, and of
                      all that is frozen and in no base (randomly initialised, or from init_from): meta.initialised
    optimizer         state of the wrapper: {'optimizer', 'scaler'};  param_names: the parameters of each group
    param_schedulers  states, in order
    rng               per rank: torch, cuda, numpy and python generators
    position          {'epoch', 'batch', 'iter', 'validated_at', 'order'}: where the data stands
    encoder           ChatEncoder.to_dict()
    meta              mmft_version, config (text), code (modules of parts that are not mmft's), base {'path' (or part ->
                      path), 'fingerprint'}, tune, initialised (names), seed, world_size, iter, epoch, history (metrics
                      of each validation), best, run

Beside them ``last_checkpoint`` names the file to resume: ``iter_4.pth``. When a run starts in a folder that holds
checkpoints it says ``iter_4.pth RUN`` (this is what it continues) or ``none RUN`` (nothing of it is saved yet). No
clock is asked, which a copy or a correction of the time sets wrong: ``meta.run`` tells which files are of one run.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import random
import re
import shutil
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmft.checkpoint.training_file import check_training_file
from mmft.disk import check_zip, fsync_path
from mmft.engine.optim import OptimWrapper, trained_parameters
from mmft.errors import CheckpointError, first_line
from mmft.files.foreign_checkpoints import foreign_training
from mmft.files.path_errors import unreadable
from mmft.models.buffers import moving_buffers

__all__ = [
    'POINTER',
    'candidates',
    'find_last',
    'get_rng',
    'initialised_state',
    'load_trained',
    'new_run',
    'newest_first',
    'plain',
    'point_to',
    'read_checkpoint',
    'read_pointer',
    'run_of',
    'set_rng',
    'trained_state',
    'write_atomic',
]

logger = logging.getLogger(__name__)

POINTER = 'last_checkpoint'
_NOTHING_YET = 'none'
_NAME = re.compile(r'iter_(\d+)\.pth$', re.ASCII)
_RUN = re.compile(r'(\d+)-\w+', re.ASCII)
_TMP = '.writing-'


def write_atomic(content: Any, path: str | os.PathLike) -> Path:
    """Save an object (or text) so that ``path`` is, at every moment, either the old file or the whole new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f'{_TMP}{path.name}'
    try:
        with open(temporary, 'wb') as file:
            if isinstance(content, str):
                file.write(content.encode())
            else:
                torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch's zip writer says RuntimeError, of positions, when a disk is full
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise _not_written(path, error) from error
    fsync_path(path.parent)
    return path


def _not_written(path: Path, error: Exception) -> CheckpointError:
    what = f'{path} could not be written: {getattr(error, "strerror", None) or first_line(error)}'
    if isinstance(error, OSError) and error.errno not in (errno.ENOSPC, errno.EDQUOT):
        expected = f'a folder that is there and in which {path.name} may be written, by this run alone'
        return CheckpointError(what, expected=expected, fix=f'look at {path.parent}; then go on with --resume')
    free = shutil.disk_usage(path.parent).free / 1e6
    return CheckpointError(
        what,
        expected=f'space on the disk ({free:,.0f} MB are free there)',
        fix='free some; what was saved before is whole, --resume continues from it',
    )


def link_atomic(source: Path, target: Path) -> None:
    """Give ``source`` a second name; its bytes are copied only where the file system has no hard links."""
    temporary = target.parent / f'{_TMP}{target.name}'
    try:
        temporary.unlink(missing_ok=True)
        os.link(source, temporary)
        os.replace(temporary, target)
    except OSError:  # no hard links here; what else it may be, writing says
        write_atomic(torch.load(source, map_location='cpu', weights_only=True), target)
        return
    fsync_path(target.parent)


def remove_leftovers(directory: Path) -> None:
    """Delete what a killed run had half written."""
    for leftover in directory.glob(f'{_TMP}*'):
        leftover.unlink(missing_ok=True)


def candidates(work_dir: str | os.PathLike) -> list[Path]:
    """The checkpoints of a run, newest first."""
    directory = Path(work_dir)
    return sorted(directory.glob('iter_*.pth'), key=iteration_of, reverse=True) if directory.is_dir() else []


def iteration_of(path: Path) -> int:
    """The iteration in the name ``iter_N.pth``, -1 for other names."""
    match = _NAME.search(path.name)
    return int(match.group(1)) if match else -1


def find_last(work_dir: str | os.PathLike) -> Path | None:
    """The checkpoint to resume: the one that ``last_checkpoint`` names; None where there is none.

    A later one of the same run was written just before a kill that the pointer did not live to see: it wins. Others
    with higher numbers belong to an earlier run in the same folder. A pointer that cannot be followed is passed over:
    the last checkpoint of the last run is taken.
    """
    found = candidates(work_dir)
    name, run = read_pointer(work_dir)
    named = next((file for file in found if file.name == name), None)
    if named is None and name != _NOTHING_YET:
        return next(iter(newest_first(found)), None)
    run = run or (run_of(named) if named else '')
    later = (f for f in found if iteration_of(f) > (iteration_of(named) if named else -1))
    return next((file for file in later if run and run_of(file) == run), named)


def read_pointer(work_dir: str | os.PathLike) -> tuple[str | None, str]:
    """What ``last_checkpoint`` names, and the run, '' where it names none; (None, '') where it cannot be read."""
    try:
        words = (Path(work_dir) / POINTER).read_bytes()[:200].decode('ascii').split()
    except (OSError, ValueError):
        return None, ''
    if len(words) == 1 and _NAME.fullmatch(words[0]):
        return words[0], ''
    if len(words) == 2 and _RUN.fullmatch(words[1]) and (words[0] == _NOTHING_YET or _NAME.fullmatch(words[0])):
        return words[0], words[1]
    return None, ''


def point_to(work_dir: str | os.PathLike, name: str | None, run: str = '') -> None:
    """Let ``last_checkpoint`` name a file; with ``run`` as what that run starts from, None for a start from nothing."""
    write_atomic(f'{name or _NOTHING_YET} {run}'.strip(), Path(work_dir) / POINTER)


def new_run(work_dir: str | os.PathLike) -> str:
    """A name for a run that starts in a folder: a number above those of all runs before it there, and four bytes."""
    before = [read_pointer(work_dir)[1], *map(run_of, candidates(work_dir))]
    return f'{1 + max(map(_number, before))}-{uuid.uuid4().hex[:8]}'


def run_of(file: Path) -> str:
    """The run that wrote a checkpoint; '' where it does not say, or cannot be read."""
    try:
        return str(read_checkpoint(file, mmap=True)['meta'].get('run', ''))
    except CheckpointError:
        return ''


def newest_first(files: Iterable[Path]) -> list[Path]:
    """Checkpoints by run, then by iteration."""
    return sorted(files, key=lambda file: (_number(run_of(file)), iteration_of(file)), reverse=True)


def _number(run: str) -> int:
    match = _RUN.fullmatch(run)
    return int(match[1]) if match else 0


def read_checkpoint(path: str | os.PathLike, mmap: bool = False) -> dict[str, Any]:
    """A training checkpoint, on the CPU, with nothing in it executed.

    Args:
        path: the file.
        mmap: leave tensors in the file until they are used, and their checksums unchecked.

    Raises:
        CheckpointError: missing, damaged, or not a training checkpoint of mmft.
    """
    path = Path(path)
    if not path.is_file():
        if foreign := foreign_training(path):
            raise foreign
        near = ', '.join(p.name for p in candidates(path.parent)) or 'none'
        raise CheckpointError(f'no checkpoint {path}', expected=f'a .pth of mmft; in {path.parent} there are: {near}')
    try:
        if not mmap:
            check_zip(path)
        content = torch.load(path, map_location='cpu', weights_only=True, mmap=mmap)
    except Exception as error:  # zip, pickle and key errors: whatever damage makes of a file
        fix = 'the file is damaged or foreign: take an earlier one of the same folder'
        raise foreign_training(path) or unreadable(path, error, fix) from error
    check_training_file(content, path)
    return content


def plain(value: Any) -> Any:
    """``value`` as tensors and plain Python types, so that ``weights_only=True`` can read it back.

    Raises:
        TypeError: something that has no plain form.
    """
    if value is None or isinstance(value, (bool, int, float, str, Tensor)):
        if isinstance(value, Tensor):
            return value.detach()
        return next((kind(value) for kind in (bool, int, float, str) if isinstance(value, kind)), None)
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(plain(item) for item in value)
    if isinstance(value, (list, set)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, (torch.dtype, Path)):
        return str(value)
    raise TypeError(f'{type(value).__name__} cannot be stored in a checkpoint: {value!r}')


def trained_state(model: nn.Module, optim: OptimWrapper) -> dict[str, Tensor]:
    """Name -> CPU tensor of all that training changes: trained parameters, which ``optim`` puts together where they are
    sharded, and the buffers that move with them, such as the running statistics of a batch norm."""
    state = {name: optim.read(p).cpu() for name, p in trained_parameters(model).items()}
    return state | {name: buffer.cpu() for name, buffer in moving_buffers(model).items()}


def initialised_state(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """What a checkpoint holds beside the trained tensors, for the day when neither base nor ``init_from`` gives it."""
    return {name: content['state_dict'][name] for name in content['meta'].get('initialised') or ()}


def load_trained(model: nn.Module, optim: OptimWrapper, content: Mapping[str, Any], path: str | os.PathLike) -> None:
    """Put the trained tensors of a checkpoint into ``model``.

    Raises:
        CheckpointError: names or shapes are not exactly those that the model trains.
    """
    others = initialised_state(content)
    state = {name: tensor for name, tensor in content['state_dict'].items() if name not in others}
    buffers = moving_buffers(model)
    if buffers and not buffers.keys() & state.keys():
        logger.warning(
            f'{path} is of an mmft that kept no buffers: {len(buffers)}, such as {min(buffers)}, start afresh'
        )
        buffers = {}
    own = trained_parameters(model)
    there = own.keys() | buffers.keys()
    unknown, missing = sorted(set(state) - there), sorted(there - set(state))
    if unknown or missing:
        raise CheckpointError(
            f'{path} does not hold what this config trains:'
            f'{_some("missing", missing)}{_some("not trained here", unknown)}',
            expected='the config (model and `tune`) the checkpoint was trained with',
            fix='take the config from the work_dir of that run',
        )
    shapes = {name: tuple(getattr(p, 'ds_shape', p.shape)) for name, p in own.items()}  # ZeRO-3 leaves p.shape empty
    shapes |= {name: tuple(buffer.shape) for name, buffer in buffers.items()}
    wrong = [f'{k} {tuple(v.shape)} for {shapes[k]}' for k, v in state.items() if tuple(v.shape) != shapes[k]]
    if wrong:
        raise CheckpointError(f'{path} has other shapes than the model: {_some("", wrong)}', expected='the same model')
    with torch.no_grad():
        for name, tensor in state.items():
            if name in buffers:
                buffers[name].copy_(tensor)
            else:
                optim.write(own[name], tensor)


def _some(title: str, names: Iterable[str], most: int = 3) -> str:
    names = list(names)
    if not names:
        return ''
    more = f' and {len(names) - most} more' if len(names) > most else ''
    return f'\n  {title} {", ".join(names[:most])}{more}'


def get_rng() -> dict[str, Any]:
    """Every generator that training draws from, as plain values."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    version, internal, gauss_next = random.getstate()
    return {
        'torch': torch.get_rng_state(),
        'cuda': torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        'numpy': [kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss],
        'python': [version, list(internal), gauss_next],
    }


def set_rng(state: Mapping[str, Any]) -> None:
    """Put every generator back where ``get_rng`` found it.

    Raises:
        CheckpointError: these are not the states of generators.
    """
    try:
        torch.set_rng_state(state['torch'])
        if state['cuda'] and len(state['cuda']) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state['cuda'])
        kind, keys, position, has_gauss, gauss = state['numpy']
        np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
        version, internal, gauss_next = state['python']
        random.setstate((version, tuple(internal), gauss_next))
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f'the random state in the checkpoint cannot be read: {first_line(error)}',
            expected='a checkpoint as mmft writes it',
            fix='take another one of the same folder, or use init_from to start a new run with its weights',
        ) from error
