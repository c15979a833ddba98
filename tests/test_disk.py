"""LargeFile: whatever the pieces, their order and the file system, the bytes are those that were given."""

from __future__ import annotations

import errno
import itertools
import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mmft import disk
from mmft.disk import LargeFile, fsync_path


def pieces(size: int, count: int, seed: int) -> list[tuple[int, int]]:
    """``size`` bytes cut in ``count`` pieces, in random order: (start, stop)."""
    rng = random.Random(seed)
    cuts = sorted({0, size, *(rng.randrange(size) for _ in range(count - 1))})
    found = list(itertools.pairwise(cuts))
    rng.shuffle(found)
    return found


def fill(path: Path, data: bytes, cuts: list[tuple[int, int]], source: Path | None = None) -> None:
    file = LargeFile(path, len(data))

    def write(cut: tuple[int, int]) -> None:
        start, stop = cut
        with file.piece(start) as piece:
            if source is not None and start % 2:
                with source.open('rb') as opened:
                    piece.copy(opened.fileno(), start, stop - start)
                return
            middle = (start + stop) // 2  # two calls: blocks do not end where pieces do
            piece.write(memoryview(data)[start:middle])
            piece.write(memoryview(data)[middle:stop])

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(write, cuts))
    file.flush()
    file.close()


@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('block', [disk._ALIGNMENT, 16 * disk._ALIGNMENT])
def test_bytes_arrive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, seed: int) -> None:
    monkeypatch.setattr(disk, '_BLOCK', block)
    data = random.Random(seed).randbytes(1_000_003)
    (tmp_path / 'source').write_bytes(data)
    fill(tmp_path / 'made', data, pieces(len(data), 60, seed), tmp_path / 'source')
    assert (tmp_path / 'made').read_bytes() == data


def test_a_file_system_without_direct_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The flag is refused, or taken and refused at the first write."""
    data = random.Random(0).randbytes(300_000)
    with monkeypatch.context() as patch:
        patch.delattr(os, 'O_DIRECT', raising=False)
        fill(tmp_path / 'refused', data, pieces(len(data), 9, 0))
    assert (tmp_path / 'refused').read_bytes() == data

    def refused(self: LargeFile, data: memoryview, offset: int) -> int:
        raise OSError(errno.EINVAL, 'Invalid argument')

    genuine = os.pwrite
    file = LargeFile(tmp_path / 'taken', len(data))
    monkeypatch.setattr(os, 'pwrite', lambda handle, *a: (refused if handle == file._direct else genuine)(handle, *a))
    with file.piece(5) as piece:
        piece.write(memoryview(data)[5:])
    file.close()
    assert (tmp_path / 'taken').read_bytes() == bytes(5) + data[5:]


def test_errors_are_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int, *_: object) -> int:
        raise OSError(errno.ENOSPC, 'No space left on device')

    file = LargeFile(tmp_path / 'made', 100_000)
    monkeypatch.setattr(os, 'pwrite', full)
    with pytest.raises(OSError, match='No space left'), file.piece(0) as piece:
        piece.write(memoryview(bytes(100_000)))
    (tmp_path / 'short').write_bytes(b'abc')
    with (
        (tmp_path / 'short').open('rb') as opened,
        pytest.raises(OSError, match='ends 7 bytes early'),
        file.piece(0) as piece,
    ):
        piece.copy(opened.fileno(), 0, 10)
    file.close()
    with pytest.raises(FileExistsError):
        LargeFile(tmp_path / 'made', 1)


def test_fsync_path(tmp_path: Path) -> None:
    """Files and directories alike; what is not there is said."""
    (tmp_path / 'file').write_bytes(b'x')
    for path in (tmp_path, tmp_path / 'file'):
        fsync_path(path)
    with pytest.raises(FileNotFoundError):
        fsync_path(tmp_path / 'none')
