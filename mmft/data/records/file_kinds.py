"""Files that are given where a ``.jsonl`` or ``.json`` belongs, known by their first bytes; how to convert each."""

from __future__ import annotations

__all__ = ['other_kind']

_UNPACK = 'unpack it and name the .jsonl or .json inside'
_TABLE = (
    "write its rows as .jsonl, for instance datasets.Dataset.from_{}('FILE').to_json('FILE.jsonl', force_ascii=False), "
    'and pictures that it holds as files'
)
_AGAIN = 'save it as UTF-8, for instance: iconv -f {} -t UTF-8 FILE > NEW'

_KINDS = {
    b'PAR1': ('a Parquet table', _TABLE.format('parquet')),
    b'ARROW1': ('an Arrow table', _TABLE.format('file')),
    b'\xff\xff\xff\xff': ('an Arrow stream', _TABLE.format('file')),
    b'PK\x03\x04': ('a zip archive (or a spreadsheet, .npz, .pth)', _UNPACK),
    b'\x1f\x8b': ('compressed by gzip', 'unpack it first: gunzip FILE'),
    b'BZh': ('compressed by bzip2', 'unpack it first: bunzip2 FILE'),
    b'\xfd7zXZ': ('compressed by xz', 'unpack it first: unxz FILE'),
    b'(\xb5/\xfd': ('compressed by zstd', 'unpack it first: unzstd FILE'),
    b'7z\xbc\xaf': ('a 7-Zip archive', _UNPACK),
    b'Rar!': ('a RAR archive', _UNPACK),
    b'SQLite format 3': ('an SQLite database', 'export the table as .jsonl'),
    b'\x89HDF': ('an HDF5 file', 'write its rows as .jsonl, and its pictures as files'),
    b'\x93NUMPY': ('a NumPy array', 'write its rows as .jsonl, and its pictures as files'),
    b'Obj\x01': ('an Avro file', 'write its rows as .jsonl'),
    b'%PDF': ('a PDF', 'name the annotation file'),
    b'\xff\xd8\xff': ('a JPEG picture', 'name the annotation file; pictures are named in it'),
    b'\x89PNG': ('a PNG picture', 'name the annotation file; pictures are named in it'),
    b'\xff\xfe\x00\x00': ('text in UTF-32', _AGAIN.format('UTF-32')),
    b'\x00\x00\xfe\xff': ('text in UTF-32', _AGAIN.format('UTF-32')),
    b'\xff\xfe': ('text in UTF-16', _AGAIN.format('UTF-16')),
    b'\xfe\xff': ('text in UTF-16', _AGAIN.format('UTF-16')),
    b'version https://git-lfs': ('a Git LFS pointer, not the file itself', 'fetch the file: git lfs pull'),
    b'<!doctype html': ('a web page, perhaps of an error or a login', 'fetch the file again'),
    b'<html': ('a web page, perhaps of an error or a login', 'fetch the file again'),
    b'<?xml': ('XML', 'write its records as .jsonl'),
    **{bytes([0x80, n]): ('a Python pickle', 'mmft opens none, they can run programs: write its records as .jsonl')
       for n in range(2, 6)},
}  # fmt: skip


def other_kind(head: bytes) -> tuple[str, str] | None:
    """What a file is that begins with these bytes and is no JSON, and what to do; None where nothing is known.

    >>> other_kind(b'PAR1...')[0], other_kind(b'{"id": 1}')
    ('a Parquet table', None)
    """
    start = head.lstrip(b' \t\r\n') if head[:1] in b' \t\r\n' else head
    for magic, kind in _KINDS.items():
        if start.startswith(magic) or (magic.isascii() and start[:40].lower().startswith(magic)):
            return kind
    if head[257:262] == b'ustar':
        return 'a tar archive', _UNPACK
    if b'\x00' in head[:4]:
        return ('text in UTF-16', _AGAIN.format('UTF-16')) if head[:4].count(0) == 2 else ('no text', 'name the file')
    return None
