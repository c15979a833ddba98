"""Writing safetensors in shards, one tensor at a time.

``safetensors.torch.save_file`` wants all tensors of a file in memory. The format does not: 8 bytes with the header's
length, the header as JSON, then the values; the header follows from names, dtypes and shapes alone, so it is written
first and each tensor goes to its place when it comes, in any order.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from mmft.disk import LargeFile
from mmft.errors import ConfigError
from mmft.export.lazy_tensors import DTYPE_NAMES, StoredTensor
from mmft.words import count_of

__all__ = ['ShardWriter', 'parse_size']

_UNITS = {'': 1, 'B': 1, 'KB': 10**3, 'MB': 10**6, 'GB': 10**9, 'TB': 10**12, 'KIB': 2**10, 'MIB': 2**20, 'GIB': 2**30}


def parse_size(size: int | str) -> int:
    """Bytes of ``'5GB'``, ``'500 MiB'`` or a number.

    >>> parse_size('1.5KB')
    1500
    """
    match = re.fullmatch(r'\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*', str(size))
    value = int(float(match[1]) * _UNITS[match[2].upper()]) if match and match[2].upper() in _UNITS else 0
    if value < 1:
        raise ConfigError(f'a shard size of {size!r}', expected="such as '5GB', '500MB' or '2GiB'")
    return value


class ShardWriter:
    """Writes ``model.safetensors``, or shards with their index where one file would be too large.

    Args:
        directory: where; it exists.
        tensors: name -> (dtype, shape) of all that will come, in the order in which shards are filled.
        max_shard_size: most bytes of values in a file; a tensor that is larger gets a file of its own.
        stem: of the file names.
    """

    def __init__(
        self,
        directory: Path,
        tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]],
        max_shard_size: int | str = '5GB',
        stem: str = 'model',
    ) -> None:
        self.directory, self.stem = directory, stem
        self.tensors = dict(tensors)
        self._left = set(self.tensors)
        shards = _fill_shards({name: _nbytes(*kind) for name, kind in self.tensors.items()}, parse_size(max_shard_size))
        count = len(shards)
        self.files: dict[str, str] = {}
        self._place: dict[str, tuple[LargeFile, int]] = {}
        self._open: list[LargeFile] = []
        for number, names in enumerate(shards, 1):
            name = f'{stem}.safetensors' if count == 1 else f'{stem}-{number:05d}-of-{count:05d}.safetensors'
            self._begin(name, names)

    def _begin(self, file_name: str, names: list[str]) -> None:
        header: dict[str, object] = {'__metadata__': {'format': 'pt'}}
        # Largest element size first, so that every tensor begins at a multiple of its element size.
        end = 0
        for name in sorted(names, key=lambda n: -self.tensors[n][0].itemsize):
            dtype, shape = self.tensors[name]
            start, end = end, end + _nbytes(dtype, shape)
            header[name] = {'dtype': DTYPE_NAMES[dtype], 'shape': list(shape), 'data_offsets': [start, end]}
        text = json.dumps(header, separators=(',', ':')).encode()
        text += b' ' * (-len(text) % 8)
        file = LargeFile(self.directory / file_name, 8 + len(text) + end)
        self._open.append(file)
        with file.piece(0) as piece:
            piece.write(memoryview(struct.pack('<Q', len(text)) + text))
        for name in names:
            self.files[name] = file_name
            self._place[name] = (file, 8 + len(text) + header[name]['data_offsets'][0])

    def write(self, name: str, blocks: Iterable[Tensor]) -> None:
        """Put a tensor in its place, given in blocks of rows; other threads may write other tensors meanwhile."""
        dtype, shape = self._take(name)
        (file, place), end = self._place[name], _nbytes(dtype, shape)
        written = 0
        with file.piece(place) as piece:
            for block in blocks:
                size = block.numel() * block.dtype.itemsize
                if block.dtype != dtype or block.shape[1:] != shape[1:] or written + size > end:
                    came = f'{block.dtype} {tuple(block.shape)}'
                    raise ValueError(f'{name}: a block {came}, announced as {dtype} {shape}')
                if size:
                    piece.write(memoryview(block.contiguous().view(-1).view(torch.uint8).numpy()))
                written += size
        if written != end:
            raise ValueError(f'{name}: {written} bytes came, {end} were announced')

    def copy(self, name: str, source: StoredTensor) -> None:
        """Copy a stored tensor's bytes; its dtype and shape are the announced ones and its values lie in order."""
        if (source.dtype, source.shape, source.stride) != (*self._take(name), None):
            raise ValueError(f'{name} is {source}, announced as {self.tensors[name]}')
        target, place = self._place[name]
        with open(source.file, 'rb', buffering=0) as file, target.piece(place) as piece:
            piece.copy(file.fileno(), source.offset, source.nbytes)

    def _take(self, name: str) -> tuple[torch.dtype, tuple[int, ...]]:
        self._left.remove(name)
        return self.tensors[name]

    def close(self) -> None:
        """Flush everything to disk and write the index.

        Raises:
            ValueError: announced tensors did not come.
        """
        if self._left:
            raise ValueError(
                f'{count_of(len(self._left), "tensor")} announced and not written, such as {sorted(self._left)[:4]}'
            )
        for file in self._open:
            file.flush()
        self.abandon()
        if len(set(self.files.values())) > 1:
            total = sum(_nbytes(*kind) for kind in self.tensors.values())
            index = {'metadata': {'total_size': total}, 'weight_map': self.files}
            path = self.directory / f'{self.stem}.safetensors.index.json'
            path.write_text(json.dumps(index, indent=2) + '\n', encoding='utf-8')

    def abandon(self) -> None:
        """Close the files, whatever is in them."""
        while self._open:
            self._open.pop().close()


def _nbytes(dtype: torch.dtype, shape: tuple[int, ...]) -> int:
    return math.prod(shape) * dtype.itemsize


def _fill_shards(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if shards[-1] and filled + size > limit:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards
