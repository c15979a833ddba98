"""Files that are on disk when we say so: flushing, and writing large files past the page cache."""

from __future__ import annotations

import errno
import mmap
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmft.errors import CheckpointError
from mmft.words import printable

__all__ = ['LargeFile', 'check_zip', 'fsync_path', 'is_lfs_pointer', 'lfs_pointer']

# What O_DIRECT wants offsets, lengths and addresses to be multiples of; the page, so that no page of the cache is
# written both ways: blocks of disks are never larger.
_ALIGNMENT = max(4096, mmap.PAGESIZE)
_BLOCK = 16 << 20  # at 4 MiB the disk waits for the cores and they for it: a fifth slower


def fsync_path(path: Path) -> None:
    """Flush a file, or a directory: a rename is durable only when the directory that holds the name is on disk too."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_lfs_pointer(path: Path) -> bool:
    """Whether a file is what git-lfs leaves in the place of a large one that it has not fetched."""
    try:
        with open(path, 'rb') as file:
            return file.read(24) == b'version https://git-lfs.'[:24]
    except OSError:
        return False


def lfs_pointer(path: Path) -> CheckpointError:
    """The error for a file that git-lfs has not fetched yet."""
    return CheckpointError(
        f'{printable(path)} is a git-lfs pointer, not the file itself',
        expected='the file, which a clone without git-lfs does not bring',
        fix=f'run `git lfs pull` in {printable(path.parent)}, or download the file again',
    )


def check_zip(path: Path) -> None:
    """Compare a zip file's contents (a ``.pth`` is one) with the checksums kept in it. ``torch.load`` does not.

    Raises:
        ValueError: names the first record that is damaged; a file that is no zip has no checksums and passes.
        zipfile.BadZipFile: its directory is damaged.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as file:
        if (damaged := file.testzip()) is not None:
            raise ValueError(f'{damaged} in it is not what was written: the checksums differ')


class LargeFile:
    """A new file of known size whose pieces are written in any order, by several threads, each piece from start to end.

    Whole blocks go to the disk directly (``O_DIRECT``) where the file system can: through the page cache a gigabyte
    costs most of a second of a core, and the disk idles until the cache is flushed. The ends of a piece, which share a
    block with its neighbours, go through the cache.

    Args:
        path: must not exist.
        size: bytes; what is never written reads as zeros.
    """

    def __init__(self, path: Path, size: int) -> None:
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        os.ftruncate(self._handle, size)
        try:
            self._direct = os.open(path, os.O_WRONLY | os.O_DIRECT)
        except (AttributeError, OSError):  # macOS has no such flag; some file systems refuse it
            self._direct = None
        self._blocks: list[memoryview] = []  # to use again: fresh memory costs as much as the copy into it

    @contextmanager
    def piece(self, offset: int) -> Iterator[Piece]:
        """A piece that begins at byte ``offset``; it is written whole when the block ends without an error."""
        block = self._blocks.pop() if self._blocks else memoryview(mmap.mmap(-1, _BLOCK))
        piece = Piece(self, block, offset)
        yield piece
        piece.flush()
        self._blocks.append(block)

    def put(self, data: memoryview, offset: int) -> None:
        """Write bytes. Those of whole blocks must lie in memory as they do in the file: aligned."""
        first = -(-offset // _ALIGNMENT) * _ALIGNMENT - offset
        last = (offset + len(data)) // _ALIGNMENT * _ALIGNMENT - offset
        if self._direct is not None and first < last:
            self._put(data[:first], offset)
            first += self._put_direct(data[first:last], offset + first)
        else:
            first = 0
        self._put(data[first:], offset + first)

    def _put_direct(self, data: memoryview, offset: int) -> int:
        """Write what can be written directly; how much that was."""
        done = 0
        try:
            while done < len(data) and done % _ALIGNMENT == 0:
                done += os.pwrite(self._direct, data[done:], offset + done)
        except OSError as error:
            if error.errno != errno.EINVAL:  # EINVAL: a file system that takes the flag and cannot do it
                raise
        return done

    def _put(self, data: memoryview, offset: int) -> None:
        done = 0
        while done < len(data):
            done += os.pwrite(self._handle, data[done:], offset + done)

    def flush(self) -> None:
        """Wait until everything is on disk."""
        os.fsync(self._handle)

    def close(self) -> None:
        """Close the file, whatever is in it."""
        for handle in (self._handle, self._direct):
            if handle is not None:
                os.close(handle)
        self._direct = None


class Piece:
    """Consecutive bytes of a ``LargeFile``, gathered into blocks."""

    def __init__(self, file: LargeFile, block: memoryview, offset: int) -> None:
        self._file, self._block = file, block
        # The block begins at a multiple of the alignment in the file too; its first bytes may belong to another piece.
        self._start = self._filled = offset % _ALIGNMENT
        self._place = offset - self._start

    def write(self, data: memoryview) -> None:
        """The next bytes."""
        while len(data):
            space = self._block[self._filled :]
            count = min(len(space), len(data))
            space[:count] = data[:count]
            self._advance(count)
            data = data[count:]

    def copy(self, source: int, start: int, count: int) -> None:
        """The next ``count`` bytes, from byte ``start`` of an open file.

        Raises:
            OSError: it ends before.
        """
        while count:
            got = os.preadv(source, [self._block[self._filled : self._filled + count]], start)
            if not got:
                raise OSError(f'the source ends {count} bytes early')
            self._advance(got)
            start, count = start + got, count - got

    def _advance(self, count: int) -> None:
        self._filled += count
        if self._filled == len(self._block):
            self.flush()

    def flush(self) -> None:
        """Write what is gathered."""
        self._file.put(self._block[self._start : self._filled], self._place + self._start)
        self._place += self._filled
        self._start = self._filled = 0
