"""An annotation file as a sequence of JSON objects: indexed by byte offsets, read one record at a time.

Both ``.jsonl`` (one object a line) and ``.json`` (one array of objects) are distinguished by their first character and
offer the same two calls, so that nothing above this file knows which one it reads. Only the offsets stay in
memory. The file is opened for each read: workers that were forked or spawned share nothing, and threads are safe.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mmft.data.records.file_kinds import other_kind
from mmft.errors import DataError
from mmft.words import clipped

__all__ = ['AnnotationFile', 'read_json']

_BOM = b'\xef\xbb\xbf'
_BLANK = b' \t\r\n'
_ARRAY_ENDS = 'the records after it cannot be told apart, in .jsonl they could'


class AnnotationFile:
    """The records of one ``.jsonl`` or ``.json`` file.

    Args:
        path: the file.
        on_bad: called with the ``DataError`` of a place that cannot be a record, such as an array element that is cut
            off. Without it the error is raised.

    Raises:
        DataError: the file is missing, empty, not UTF-8, holds no records, or holds an object that spans lines.
    """

    def __init__(self, path: str | Path, on_bad: Callable[[DataError], None] | None = None) -> None:
        self.path = Path(path)
        with _opened(self.path, 'there is no such annotation file') as file:
            head = _head(file, self.path)
            first = head.removeprefix(_BOM).lstrip(_BLANK)[:1]
            if first == b'{':
                _check_one_a_line(self.path, file)
            spans = _array_spans if first == b'[' else _line_spans
            index = np.array(list(spans(self.path, file, on_bad)), dtype=np.int64).reshape(-1, 3)
            self._stamp = _stamp(file.fileno())
        self._starts, self._ends, self._lines = index.T.copy()
        if not len(self):
            raise DataError('holds no records', file=self.path, expected='one JSON object a line, or an array of them')

    def __len__(self) -> int:
        return len(self._starts)

    def line(self, i: int) -> int:
        """The line (from 1) on which record ``i`` begins."""
        return int(self._lines[i])

    def __getitem__(self, i: int) -> dict[str, Any]:
        """Read record ``i``.

        Raises:
            DataError: it is not a JSON object, or the file was changed since it was indexed.
        """
        start, end, line = int(self._starts[i]), int(self._ends[i]), self.line(i)
        with _opened(self.path) as file:
            if _stamp(file.fileno()) != self._stamp:
                raise DataError(
                    'the file was changed after it was opened', file=self.path, fix='start again with the finished file'
                )
            file.seek(start)
            raw = file.read(end - start)
        return _parse(raw, self.path, line)

    def digest(self) -> bytes:
        """BLAKE2b of the whole file, at about a gigabyte a second.

        Raises:
            DataError: it cannot be read any more.
        """
        digest = hashlib.blake2b()
        with _opened(self.path) as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return digest.digest()


def read_json(path: str | Path) -> Any:
    """Read a whole small JSON file, such as a meta file; errors name file, line and column.

    Raises:
        DataError: the file is missing or not valid JSON.
    """
    path = Path(path)
    with _opened(path) as file:
        _head(file, path)
        return _value(file.read().removeprefix(_BOM), path, 1)


@contextlib.contextmanager
def _opened(path: Path, missing: str = 'cannot read it: No such file') -> Iterator[BinaryIO]:
    """The file, which must be a regular one: a device or a pipe has no end."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise DataError('cannot read it: it is not a regular file', file=path, fix='name a .jsonl or .json file')
        file = path.open('rb')
    except FileNotFoundError:
        raise DataError(missing, file=path, fix='check the path (`ann_file`, or `annotation` in a meta file)') from None
    except (OSError, ValueError) as error:  # ValueError: a path that cannot be one
        raise DataError(
            f'cannot read it: {getattr(error, "strerror", None) or error}',
            file=clipped(path),
            fix='check the path and its permissions',
        ) from None
    with file:
        yield file


def _head(file: BinaryIO, path: Path) -> bytes:
    """The first bytes; the file is at its start again."""
    head = file.read(4096)
    file.seek(0)
    if found := other_kind(head):
        what, fix = found
        raise DataError(
            f'this file is {what}', file=path, expected='one JSON object a line (.jsonl), or an array of them (.json)',
            fix=fix.replace('FILE', shlex.quote(str(path))),
        )  # fmt: skip
    return head


def _stamp(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_size, found.st_mtime_ns


def _line_spans(path: Path, file: Any, on_bad: Any) -> Iterator[tuple[int, int, int]]:
    """(start, end, line) of every line that is not blank."""
    offset = 0
    for number, line in enumerate(file, 1):
        begin = len(_BOM) if number == 1 and line.startswith(_BOM) else 0
        if line[begin:].strip():
            yield offset + begin, offset + len(line.rstrip(b'\r\n')), number
        offset += len(line)


def _check_one_a_line(path: Path, file: BinaryIO) -> None:
    """Refuse a file that begins with an object over several lines: each of its lines would be an error."""
    decoder, fix = json.JSONDecoder(), ''
    first = next(line for line in file if line.removeprefix(_BOM).strip())
    file.seek(0)
    try:
        decoder.decode(first.decode('utf-8-sig'))
    except (ValueError, RecursionError):
        with contextlib.suppress(ValueError, RecursionError):  # what else is wrong is said of its own line
            text = file.read().decode('utf-8-sig').lstrip()
            _, end = decoder.raw_decode(text)
            if text[end:].strip():
                fix = f'put each record on one line: jq -c . {shlex.quote(str(path))} > NAME.jsonl'
            else:
                fix = 'if it is one record, wrap it in [ ]; if it holds the list of records, keep only that list'
            fix = fix if '\n' in text[:end] else ''
        file.seek(0)
    if fix:
        raise DataError(
            'a JSON object that spans several lines', file=path, line=1,
            expected='one JSON object a line (.jsonl), or one array of objects (.json)', fix=fix,
        )  # fmt: skip


def _array_spans(path: Path, file: Any, on_bad: Any) -> Iterator[tuple[int, int, int]]:
    """(start, end, line) of every element of a JSON array; the text is held only while it is being indexed."""
    raw = file.read()
    text = _decode(raw.removeprefix(_BOM), path, 1)
    decoder, skip = json.JSONDecoder(), _skip_blank
    byte, line, seen = len(raw) - len(raw.removeprefix(_BOM)), 1, 0  # the place of text[seen] in the file

    at = skip(text, skip(text, 0) + 1)
    closed = text[at : at + 1] == ']'
    try:
        while not closed:
            _, end = decoder.raw_decode(text, at)
            after = skip(text, end)
            if text[after : after + 1] not in {',', ']'}:
                raise json.JSONDecodeError("Expecting ',' or ']'", text, after)
            between, body = text[seen:at], text[at:end]
            byte, line, seen = byte + len(between.encode()), line + between.count('\n'), end
            size = len(body.encode())
            yield byte, byte + size, line
            byte, line = byte + size, line + body.count('\n')
            closed, at = text[after] == ']', skip(text, after + 1)
        if text[at:].removeprefix(']').strip():
            raise json.JSONDecodeError('Extra data', text, at)
    except json.JSONDecodeError as error:
        # Where one element is broken nothing tells where the next one begins: the array ends here.
        problem = _invalid(error, path, 1, _ARRAY_ENDS)
    except (RecursionError, ValueError) as error:
        problem = _unreadable(error, path, line + text.count('\n', seen, at), _ARRAY_ENDS)
    else:
        return
    if on_bad is None:
        raise problem
    on_bad(problem)


def _skip_blank(text: str, at: int) -> int:
    while at < len(text) and text[at] in ' \t\r\n':
        at += 1
    return at


def _decode(raw: bytes, path: Path, line: int) -> str:
    try:
        return raw.decode('utf-8')
    except UnicodeDecodeError as error:
        raise DataError(
            f'byte 0x{raw[error.start]:02x} at position {error.start} is not UTF-8',
            file=path,
            line=line + raw[: error.start].count(b'\n'),
            fix='save the file as UTF-8',
        ) from None


def _parse(raw: bytes, path: Path, line: int) -> dict[str, Any]:
    value = _value(raw, path, line)
    if not isinstance(value, dict):
        raise DataError(
            f'a {type(value).__name__} where a record should be', file=path, line=line, expected='a JSON object {...}'
        )
    return value


def _value(raw: bytes, path: Path, line: int) -> Any:
    text = _decode(raw, path, line)
    try:
        return json.loads(text, object_pairs_hook=_unique_keys)
    except json.JSONDecodeError as error:
        raise _invalid(error, path, line) from None
    except _DuplicateKeyError as error:
        raise DataError(
            f'the key {clipped(repr(error.args[0]))} stands twice in one object',
            file=path,
            line=line,
            expected='each key once: of two, JSON readers take either',
            fix='take one out, or rename it',
        ) from None
    except (RecursionError, ValueError) as error:
        raise _unreadable(error, path, line) from None


def _invalid(error: json.JSONDecodeError, path: Path, line: int, hint: str = '') -> DataError:
    line += error.lineno - 1
    return DataError(
        f'invalid JSON at line {line} column {error.colno}: {error.msg}',
        file=path,
        line=line,
        expected='one JSON object a line (.jsonl), or one array of objects (.json)',
        fix='correct this line' + (f'; {hint}' if hint else ''),
    )


def _unreadable(error: Exception, path: Path, line: int, hint: str = '') -> DataError:
    """For JSON that is valid but that Python will not hold: nested too deep, a number of thousands of digits."""
    return DataError(
        'JSON nested too deep' if isinstance(error, RecursionError) else 'a number of too many digits',
        file=path,
        line=line,
        expected='a flat record of ordinary values',
        fix='correct this record' + (f'; {hint}' if hint else ''),
    )


class _DuplicateKeyError(ValueError):
    pass


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise _DuplicateKeyError(key)
        result[key] = value
    return result
