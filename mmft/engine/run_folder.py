"""The folder of a run: its checkpoints, which of them is the newest, and files written so that no crash can harm them.

Beside the files ``iter_N.pth`` and ``best.pth`` (``mmft/engine/training_state.py`` says what is in them)
``last_checkpoint`` names the file to resume: ``iter_4.pth``. When a run starts in a folder that holds checkpoints it
says ``iter_4.pth RUN`` (this is what it continues) or ``none RUN`` (nothing of it is saved yet). File times are not
used, which a copy or a corrected clock changes: ``meta.run`` tells which files are of one run.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from mmft.checkpoint.training_file import checked_content
from mmft.disk import check_zip, fsync_path
from mmft.errors import CheckpointError, first_line
from mmft.files.foreign_checkpoints import foreign_training
from mmft.files.path_errors import unreadable

__all__ = [
    'POINTER',
    'candidates',
    'find_last',
    'iteration_of',
    'link_atomic',
    'new_run',
    'newest_first',
    'point_to',
    'read_checkpoint',
    'read_pointer',
    'remove_leftovers',
    'run_of',
    'write_atomic',
]

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
    except OSError:  # no hard links here; any other error shows in writing
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

    A later one of the same run was written just before a kill, before the pointer was updated: it wins. Others
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
    """Make ``last_checkpoint`` name a file; with ``run`` as what that run starts from, None for nothing."""
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
    return checked_content(content, path)
