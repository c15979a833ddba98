"""One run to a folder, and no lock that outlives its process."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmft.engine.lock import LOCK, FolderLock
from mmft.errors import TrainingError
from tests.engine.toy import toy_runner

TAKE = """
import fcntl, os, sys
file = open(sys.argv[1], 'a+')
fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
print('process', os.getpid(), 'on this machine', file=file, flush=True)
"""


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    command = [sys.executable, '-c', f'{TAKE}print(1, flush=True); input()', str(tmp_path / LOCK)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        other.stdout.readline()
        with pytest.raises(TrainingError, match=rf'another run is writing to .*process {other.pid} on this machine'):
            toy_runner(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [LOCK], 'nothing was written'
        other.kill()
    lock = FolderLock(tmp_path)
    lock.acquire()
    assert f'process {os.getpid()} on ' in (tmp_path / LOCK).read_text()
    lock.release()


def test_a_run_holds_the_folder_and_gives_it_back(tmp_path: Path) -> None:
    def free() -> bool:
        command = [sys.executable, '-c', TAKE, str(tmp_path / LOCK)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    runner = toy_runner(tmp_path)
    assert not free()
    runner.train()
    assert free()


def test_a_file_system_without_locks_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOLCK, 'No locks available')

    monkeypatch.setattr(fcntl, 'lockf', unsupported)
    FolderLock(tmp_path).acquire()
    (tmp_path / 'sub' / LOCK).mkdir(parents=True)
    FolderLock(tmp_path / 'sub').acquire()
    assert [record.message.count('cannot be locked') for record in caplog.records] == [1, 1]
