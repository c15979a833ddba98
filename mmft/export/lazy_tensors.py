"""Lazy tensors: places in files, with dtype and shape, of which no byte is read until it is needed.

A conversion of any size then needs the memory of one tensor, and tensors that do not change are copied by the kernel,
file to file, without passing through torch. Nothing is executed: safetensors headers are JSON, and ``.pth`` / ``.bin``
files are read with ``weights_only=True``.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmft.errors import CheckpointError
from mmft.files.path_errors import unreadable
from mmft.files.tensors import TensorSource

__all__ = [
    'DTYPE_NAMES',
    'ComputedTensor',
    'StoredTensor',
    'materialise',
    'stored_pickle',
    'stored_safetensors',
    'stored_tensors',
]

DTYPE_NAMES: dict[torch.dtype, str] = {
    torch.float64: 'F64', torch.float32: 'F32', torch.float16: 'F16', torch.bfloat16: 'BF16',
    torch.int64: 'I64', torch.int32: 'I32', torch.int16: 'I16', torch.int8: 'I8', torch.uint8: 'U8', torch.bool: 'BOOL',
}  # fmt: skip
"""What safetensors calls each dtype."""

_DTYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file.

    Attributes:
        offset: of its first value, in bytes from the beginning of the file.
        stride: in values; None where the values lie in order.
    """

    file: Path
    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...] | None = None

    @property
    def in_order(self) -> bool:
        """Whether the values can be copied, or read a few rows at a time."""
        return self.stride is None

    @property
    def nbytes(self) -> int:
        """Size of the values."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self) -> Tensor:
        """The tensor, in memory of its own.

        Raises:
            CheckpointError: the file ends before the tensor does.
        """
        if self.stride is None:
            return self._values(0, math.prod(self.shape)).view(self.shape)
        count = 1 + sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))
        return self._values(0, count if 0 not in self.shape else 0).as_strided(self.shape, self.stride).contiguous()

    def rows(self, start: int, stop: int, into: Tensor | None = None) -> Tensor:
        """``tensor[start:stop]`` of a tensor whose values lie in order, in the first rows of ``into`` if that is given.

        It has at least one dimension, and rows of ``into`` are as its own.
        """
        count = min(stop, self.shape[0]) - start
        rows = torch.empty(count, *self.shape[1:], dtype=self.dtype) if into is None else into[:count]
        self._read(rows.view(-1), start * math.prod(self.shape[1:]))
        return rows

    def _values(self, start: int, count: int) -> Tensor:
        values = torch.empty(count, dtype=self.dtype)
        self._read(values, start)
        return values

    def _read(self, values: Tensor, start: int) -> None:
        view, done = memoryview(values.view(torch.uint8).numpy()), 0
        with open(self.file, 'rb', buffering=0) as file:
            file.seek(self.offset + start * self.dtype.itemsize)
            while done < len(view):
                got = file.readinto(view[done:])
                if not got:
                    raise CheckpointError(f'{self.file} is cut off', expected='a whole file', fix='fetch it again')
                done += got


@dataclass(frozen=True)
class ComputedTensor:
    """A tensor that its source makes from others, such as the merged weights of an old adapter directory."""

    source: TensorSource
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    in_order = False

    def read(self) -> Tensor:
        """The tensor."""
        return self.source[self.name]


def stored_safetensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file."""
    with open(path, 'rb') as file:
        (length,) = struct.unpack('<Q', file.read(8))
        header = json.loads(file.read(length))
    found = {}
    for name, entry in header.items():
        if name == '__metadata__':
            continue
        if entry['dtype'] not in _DTYPES:
            raise CheckpointError(f'{path}: {name} is of type {entry["dtype"]}', expected=f'one of {sorted(_DTYPES)}')
        start = 8 + length + entry['data_offsets'][0]
        found[name] = StoredTensor(path, start, _DTYPES[entry['dtype']], tuple(entry['shape']))
    return found


def stored_pickle(path: Path) -> Any:
    """What ``torch.save`` wrote to ``path``, with a ``StoredTensor`` in place of every tensor.

    Raises:
        CheckpointError: missing, damaged, or holding more than tensors and plain values.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    if not path.is_file():
        raise CheckpointError(f'no file {path}', expected='a checkpoint that training wrote', fix='check the path')
    try:
        # Under fake tensors torch.load reads no values and notes where in the file each storage lies.
        with FakeTensorMode():
            content = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # zip, pickle and key errors: whatever damage makes of a file
        fix = 'the file is damaged or foreign: take an earlier one of the same folder'
        raise unreadable(path, error, fix) from error
    return _map_tensors(content, lambda tensor: _stored(path, tensor))


def _stored(path: Path, tensor: Tensor) -> StoredTensor:
    if tensor.layout != torch.strided or tensor.untyped_storage()._checkpoint_offset is None:
        raise CheckpointError(
            f'{path} holds a tensor without plain values, or is in the format of before torch 1.6',
            expected='a file that torch.save wrote as training does',
            fix='load it with torch, and save it again',
        )
    offset = tensor.untyped_storage()._checkpoint_offset + tensor.storage_offset() * tensor.dtype.itemsize
    stride = None if tensor.is_contiguous() else tuple(tensor.stride())
    return StoredTensor(path, offset, tensor.dtype, tuple(tensor.shape), stride)


def materialise(content: Any) -> Any:
    """``content`` with every ``StoredTensor`` read."""
    return _map_tensors(content, StoredTensor.read, StoredTensor)


def _map_tensors(value: Any, change: Any, kind: type = Tensor) -> Any:
    if isinstance(value, kind):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _map_tensors(item, change, kind) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_map_tensors(item, change, kind) for item in value)
    return value


def stored_tensors(tensors: TensorSource) -> dict[str, StoredTensor | ComputedTensor]:
    """Where each tensor of a source lies."""
    files: dict[Path, Mapping[str, Any]] = {}
    found: dict[str, StoredTensor | ComputedTensor] = {}
    for name in tensors:
        origin = tensors.origin(name)
        if origin is None:
            found[name] = ComputedTensor(tensors, name, *tensors.meta(name))
            continue
        file, key = origin
        if file not in files:
            files[file] = stored_safetensors(file) if file.suffix == '.safetensors' else stored_pickle(file)
        found[name] = files[file][key]
    return found
