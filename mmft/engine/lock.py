"""One run to a folder: a lock that the system releases when its process ends, however it ends."""

from __future__ import annotations

import errno
import logging
import os
import socket
import time
from pathlib import Path
from typing import IO

from mmft.errors import TrainingError
from mmft.words import clipped

__all__ = ['LOCK', 'FolderLock']

logger = logging.getLogger('mmft')

LOCK = '.lock'


class FolderLock:
    """The lock of a run's folder, a file ``.lock`` in it that says who holds it. The file stays behind.

    It is a POSIX record lock: processes that are forked (data workers) do not inherit it, and NFS knows it. One process
    does not lock itself out, so that a run may follow another in it.

    Args:
        folder: must exist.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder)
        self._file: IO[str] | None = None

    def acquire(self) -> None:
        """Take it. A file system that has no locks is warned about, and the run goes on.

        Raises:
            TrainingError: another process holds it; names the process.
        """
        try:
            import fcntl

            file = open(self.folder / LOCK, 'a+', encoding='utf-8', errors='replace')  # noqa: SIM115
        except (ImportError, OSError) as error:
            logger.warning(f'{self.folder} cannot be locked ({error}): start no second run in it')
            return
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = clipped(file.read(300).strip()) or 'which does not say more'
            file.close()
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                logger.warning(f'{self.folder} cannot be locked ({error.strerror}): start no second run in it')
                return
            raise TrainingError(
                f'another run is writing to {self.folder}: {holder}',
                expected='one run in a folder, or they write over each other',
                fix='wait until it ends or stop it, or give this run a folder of its own with --work-dir',
            ) from None
        file.truncate(0)
        file.write(f'process {os.getpid()} on {socket.gethostname()}, since {time.strftime("%Y-%m-%d %H:%M:%S")}\n')
        file.flush()
        self._file = file

    def release(self) -> None:
        """Release it."""
        if self._file is not None:
            self._file.close()
            self._file = None
