"""The weight files of a directory, checked without reading a tensor: there, whole, and what they hold."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from mmft.words import count_of

__all__ = ['WeightsError', 'tensor_names']

SINGLE, INDEX = 'model.safetensors', 'model.safetensors.index.json'
BIN = ('pytorch_model.bin', 'pytorch_model.bin.index.json')
MOST_HEADER = 100_000_000
"""Bytes; the safetensors library has the same limit. A file of something else would be read whole."""
_DOWNLOAD = 'download or copy the file again'


class WeightsError(Exception):
    """Weights that cannot be loaded.

    Args:
        what: what is wrong.
        fix: what to do.
    """

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what)
        self.what, self.fix = what, fix


def tensor_names(directory: Path) -> set[str]:
    """The tensors of a directory; empty for ``.bin`` files, which do not say without being read.

    Raises:
        WeightsError: no weights, or files that are missing or cut off.
    """
    if (directory / SINGLE).is_file():
        return safetensors_names(directory / SINGLE)
    if (directory / INDEX).is_file():
        return _sharded(directory, _weight_map(directory / INDEX))
    if any((directory / name).is_file() for name in BIN):
        return set()
    raise WeightsError(
        f'no weights in {directory}: neither {SINGLE} nor {INDEX}',
        'name the directory that an export wrote; a training checkpoint is served with --config and --checkpoint',
    )


def _weight_map(file: Path) -> dict[str, str]:
    try:
        found = json.loads(file.read_text(encoding='utf-8'))['weight_map']
        if isinstance(found, dict) and found and all(isinstance(name, str) for name in found.values()):
            return found
    except (ValueError, KeyError, TypeError):
        pass
    raise WeightsError(f'{file} is not an index of shards', _DOWNLOAD)


def _sharded(directory: Path, where: dict[str, str]) -> set[str]:
    shards = sorted(set(where.values()))
    missing = [name for name in shards if not (directory / name).is_file()]
    if missing:
        verb = 'is' if len(missing) == 1 else 'are'
        what = f'{len(missing)} of {count_of(len(shards), "shard")} {verb} missing: {", ".join(missing[:3])}'
        raise WeightsError(what, _DOWNLOAD)
    held = {name: safetensors_names(directory / name) for name in shards}
    absent = [tensor for tensor, shard in where.items() if tensor not in held[shard]]
    if absent:
        verb = 'is' if len(absent) == 1 else 'are'
        what = f'{count_of(len(absent), "tensor")} of the index {verb} not in their shards, such as {absent[0]}'
        raise WeightsError(what, 'index and shards are of different exports: export or download all again')
    return set(where)


def safetensors_names(file: Path) -> set[str]:
    """The tensors that a file says it holds, provided that it is as long as they are.

    Raises:
        WeightsError: it is not, or is no safetensors file.
    """
    size = file.stat().st_size
    with open(file, 'rb') as stream:
        head = stream.read(8)
        if head.startswith(b'version '):
            raise WeightsError(f'{file} is a pointer of git-lfs, not the weights', 'run git lfs pull in the directory')
        length = struct.unpack('<Q', head)[0] if len(head) == 8 else size
        if length > min(size - 8, MOST_HEADER):
            raise WeightsError(f'{file} is not a safetensors file, or is cut off ({size:,} bytes)', _DOWNLOAD)
        try:
            content = json.loads(stream.read(length))
            tensors = {name: entry['data_offsets'] for name, entry in content.items() if name != '__metadata__'}
            end = 8 + length + max((int(offsets[1]) for offsets in tensors.values()), default=0)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            raise WeightsError(f'{file}: its header is damaged', _DOWNLOAD) from None
    if size != end:
        raise WeightsError(f'{file} is cut off: {size:,} bytes of {end:,}', _DOWNLOAD)
    return set(tensors)
