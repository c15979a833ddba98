"""The directory that an export makes: whole and checked under its name, or not there at all."""

from __future__ import annotations

import errno
import glob
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mmft.disk import fsync_path
from mmft.errors import CheckpointError, ConfigError

__all__ = ['check_out', 'made_whole', 'unfinished']


def check_out(out: Path, force: bool, inputs: Iterable[Path]) -> None:
    """Refuse an ``out`` that exists, and, even when forced, one whose loss would be the loss of the input."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not force:
        raise ConfigError(
            f'{out} exists', expected='a new directory', fix='choose another, or pass --force to replace it'
        )
    for path in (*inputs, Path.cwd()):
        if path.resolve().is_relative_to(out.resolve()):
            raise ConfigError(
                f'--force would delete {out}, in which {path} lies', fix='write to a directory of its own'
            )
    if not out.is_dir():
        raise ConfigError(f'{out} is a file', expected='a directory to replace')


def unfinished(out: Path) -> list[Path]:
    """Leftovers of interrupted exports to ``out``. Another one may still be running there: nothing is deleted."""
    return sorted(out.parent.glob(f'{glob.escape(out.name)}.tmp-*'))


@contextmanager
def made_whole(out: Path) -> Iterator[Path]:
    """A temporary directory beside ``out`` that takes its name when the block ends, and is removed when it fails."""
    mark = uuid.uuid4().hex[:8]
    temporary, old = out.parent / f'{out.name}.tmp-{mark}', out.parent / f'{out.name}.old-{mark}'
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise ConfigError(
            f'{out} cannot be made: {error.strerror}', expected='a place where you may write', fix='choose another'
        ) from error
    try:
        yield temporary
        _sync(temporary)
        if out.exists():
            os.rename(out, old)
        os.rename(temporary, out)
        fsync_path(out.parent)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if old.exists() and not out.exists():
            os.rename(old, out)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(out.parent).free / 1e9
            raise CheckpointError(
                f'{out}: {error.strerror}; what was written of it is deleted',
                expected=f'space for the whole model; {free:.2f} GB are free there',
                fix='free some space, or write to another disk',
            ) from error
        raise
    shutil.rmtree(old, ignore_errors=True)


def _sync(directory: Path) -> None:
    """Flush the small files to disk; the weight files are flushed when they are closed."""
    for file in directory.iterdir():
        if file.suffix != '.safetensors':
            fsync_path(file)
    fsync_path(directory)
