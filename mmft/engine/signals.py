"""A run that is asked to end says what is saved and how to continue, and ends with the exit status of its signal."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

from mmft.engine.run_folder import find_last
from mmft.engine.strategies.collectives import is_main

__all__ = ['ENDING', 'explained_end']

logger = logging.getLogger('mmft')

ENDING = tuple(getattr(signal, name) for name in ('SIGTERM', 'SIGUSR1', 'SIGHUP') if hasattr(signal, name))
"""Signals by which schedulers and shells end a job; without a handler each ends the process silently."""


@contextlib.contextmanager
def explained_end(work_dir: str | os.PathLike) -> Iterator[None]:
    """Within it, signals that end the process do so with a line about what there is to continue from.

    The exit status is 128 and the number of the signal, as a shell gives it: 143 for SIGTERM. The process ends at once,
    as it would without a handler: an exception would have to find its way through collectives whose other ranks are
    gone, and checkpoints are whole at every moment. Signals that are ignored (``nohup``) or handled stay as they are;
    Ctrl-C stays Python's, and gets its line too.
    """
    here = threading.current_thread() is threading.main_thread()
    silent = [number for number in ENDING if here and signal.getsignal(number) is signal.SIG_DFL]
    mine = os.getpid()

    def end(number: int, frame: Any) -> None:
        if os.getpid() != mine:  # forked data workers inherit the handler; they end with this process
            return
        with contextlib.suppress(Exception):  # whatever was going on: a file half read, a line half written
            _say(signal.Signals(number).name, work_dir)
        os._exit(128 + number)

    for number in silent:
        signal.signal(number, end)
    try:
        yield
    except KeyboardInterrupt:
        _say('Ctrl-C', work_dir)
        raise
    finally:
        for number in silent:
            signal.signal(number, signal.SIG_DFL)


def _say(cause: str, work_dir: str | os.PathLike) -> None:
    if not is_main():
        return
    last = find_last(work_dir)
    saved = f'what is saved is {last}; the same command with --resume continues from it'
    logger.warning(f'ended by {cause}: {saved if last else "nothing of this run is saved yet"}')
    for handler in logger.handlers:
        handler.flush()
