"""A run that is told to end says what is saved and how to continue, and ends with the exit status of its signal."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmft.engine.checkpoint import find_last
from mmft.engine.distributed import is_main

__all__ = ['ENDING', 'Stopped', 'explained_end']

logger = logging.getLogger('mmft')

ENDING = tuple(getattr(signal, name) for name in ('SIGTERM', 'SIGUSR1', 'SIGHUP') if hasattr(signal, name))
"""Signals by which schedulers and shells end a job; without a handler each ends the process without a word."""


class Stopped(SystemExit):
    """The end of the process by a signal.

    Attributes:
        code: 128 and the signal's number, the exit status that a shell gives: 143 for SIGTERM.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number


@contextmanager
def explained_end(work_dir: str | os.PathLike) -> Iterator[None]:
    """Turn signals that end the process into ``Stopped``, and say in one line what there is to continue from.

    Signals that are ignored (``nohup``), or that have a handler already, stay as they are; Ctrl-C stays Python's.
    """
    here = threading.current_thread() is threading.main_thread()
    silent = [number for number in ENDING if here and signal.getsignal(number) is signal.SIG_DFL]
    mine = os.getpid()

    def stop(number: int, frame: Any) -> None:
        if os.getpid() == mine:  # forked data workers inherit the handler; they end with this process
            raise Stopped(number)

    for number in silent:
        signal.signal(number, stop)
    try:
        yield
    except (Stopped, KeyboardInterrupt) as error:
        name = signal.Signals(error.number).name if isinstance(error, Stopped) else 'Ctrl-C'
        if is_main():
            logger.warning(f'ended by {name}: {_saved(work_dir)}')
        raise
    finally:
        for number in silent:
            signal.signal(number, signal.SIG_DFL)


def _saved(work_dir: str | os.PathLike) -> str:
    last = find_last(work_dir)
    if last is None:
        return 'nothing of this run is saved yet'
    return f'what is saved is {last}; the same command with --resume continues from it'
