"""Tensors in weight files, read one at a time: safetensors or ``.bin``, whole or in shards, of one directory or more.

Nothing in the directory is executed: safetensors hold no code, ``.bin`` files are read with ``weights_only=True``.
"""

from __future__ import annotations

import hashlib
import os.path
import re
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from mmft.errors import CheckpointError
from mmft.files.path_errors import unreadable
from mmft.json_files import read_json
from mmft.words import clipped, printable

__all__ = ['WEIGHT_FILES', 'Joined', 'TensorDirectory', 'TensorFiles', 'TensorSource', 'fingerprint', 'has_weights',
           'main_dtype', 'shards_of']  # fmt: skip

WEIGHT_FILES = ('model.safetensors', 'pytorch_model.bin')


def has_weights(path: Path) -> bool:
    """Whether ``TensorDirectory`` finds weight files in a directory."""
    return any((path / f'{name}{end}').is_file() for name in WEIGHT_FILES for end in ('', '.index.json'))


def shards_of(index: Path) -> list[str]:
    """The weight files that an index names.

    Raises:
        CheckpointError: it is no index of shards.
    """
    names = read_json(index).get('weight_map')
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise CheckpointError(
            f'{index} is not an index of shards',
            expected='weight_map: the file of each tensor',
            fix='download the file again',
        )
    return sorted(set(names.values()))


def _no_weights(path: Path) -> CheckpointError:
    there = sorted(p.name for p in path.iterdir() if p.suffix in ('.safetensors', '.bin', '.pth', '.pt', '.gguf'))
    shard = next((name for name in there if re.search(r'-\d+-of-\d+\.', name)), None)
    if shard is not None:
        index = re.sub(r'-\d+-of-\d+(\.\w+)$', r'\1.index.json', shard)
        return CheckpointError(
            f'no weights in {path}: there is {printable(shard)}, one of several files, but no {printable(index)}',
            expected='the index, which says which tensor is in which file',
            fix='download it from where the shards came from',
        )
    found = f'; there is {printable(", ".join(there[:3]))}, which is not read' if there else ''
    return CheckpointError(
        f'no weights in {path}{found}',
        expected=' or '.join((*WEIGHT_FILES, 'their .index.json with all shards')),
        fix='download the weight files into this directory',
    )


def _no_state_dict(file: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f'{file} {what}',
        expected='tensors by their names, at the top or under model or state_dict',
        fix='take the weight file as it was published or trained',
    )


class TensorSource(Mapping[str, Tensor], ABC):
    """A read-only mapping from names to tensors that lie in files; each access reads one tensor."""

    @abstractmethod
    def origin(self, key: str) -> tuple[Path, str] | None:
        """The file that holds the tensor as it is, and its name there; None where the tensor is computed."""

    @abstractmethod
    def meta(self, key: str) -> tuple[torch.dtype, tuple[int, ...]]:
        """dtype and shape, without reading the tensor."""

    def without_values(self, key: str) -> Tensor:
        """The tensor on the meta device: nothing of it is read."""
        dtype, shape = self.meta(key)
        return torch.empty(shape, dtype=dtype, device='meta')

    @abstractmethod
    def probe(self, key: str) -> tuple[tuple[int, ...], Tensor]:
        """Shape, and 256 values each of a tensor's first, middle and last row, without reading the rest."""


class TensorFiles(TensorSource):
    """The tensors of some weight files: safetensors, or ``.bin`` / ``.pth`` read with ``weights_only=True``.

    Args:
        files: in which a name may stand once; a ``.pth`` may hold them under ``model`` or ``state_dict``.

    Raises:
        CheckpointError: a file that cannot be read.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self._files: dict[str, Path] = {}
        self._open: dict[Path, Any] = {}
        self._computed: set[Path] = set()  # whose tensors are in no place of their own: nested, or of an old format
        for file in files:
            for key in self._handle(file).keys():  # noqa: SIM118  safe_open handles are no mappings
                self._files[key] = file

    @property
    def files(self) -> list[Path]:
        """The weight files, each once."""
        return list(dict.fromkeys(self._files.values()))

    def _handle(self, file: Path) -> Any:
        if file not in self._open:
            is_zip = zipfile.is_zipfile(file)
            try:
                if file.suffix == '.safetensors':
                    self._open[file] = safe_open(file, framework='pt')
                else:
                    # Files of before torch 1.6 cannot be mapped into memory.
                    content = torch.load(file, 'cpu', weights_only=True, mmap=is_zip)
            except Exception as error:  # whatever damage makes of a file
                raise unreadable(file, error) from error
            if file.suffix != '.safetensors':
                self._open[file] = self._plain(file, content)
                if not is_zip:
                    self._computed.add(file)
        return self._open[file]

    def _plain(self, file: Path, content: Any) -> dict[str, Tensor]:
        for name in ('model', 'state_dict'):
            if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
                content = content[name]
                self._computed.add(file)
        if not isinstance(content, Mapping):
            raise _no_state_dict(file, f'holds a {type(content).__name__}')
        tensors = {key: value for key, value in content.items() if isinstance(value, Tensor)}
        if not tensors and content:
            within = ', '.join(clipped(key, 40) for key, value in content.items() if isinstance(value, (Mapping, list)))
            raise _no_state_dict(
                file, 'names no tensor' + (f'; there may be some in {clipped(within)}' if within else '')
            )
        if odd := [key for key in tensors if not isinstance(key, str)]:
            raise _no_state_dict(file, f'has a tensor of the name {clipped(repr(odd[0]))}')
        if odd := [key for key, value in tensors.items() if value.layout != torch.strided or value.is_meta]:
            raise _no_state_dict(file, f'has the tensor {clipped(odd[0])} without plain values')
        return tensors

    def __getitem__(self, key: str) -> Tensor:
        handle = self._handle(self._files[key])
        return handle[key] if isinstance(handle, dict) else handle.get_tensor(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def origin(self, key: str) -> tuple[Path, str] | None:
        file = self._files[key]
        return None if file in self._computed else (file, key)

    def meta(self, key: str) -> tuple[torch.dtype, tuple[int, ...]]:
        handle = self._handle(self._files[key])
        if isinstance(handle, dict):
            return handle[key].dtype, tuple(handle[key].shape)
        piece = handle.get_slice(key)
        shape = tuple(piece.get_shape())
        return (piece[0:0] if shape else handle.get_tensor(key)).dtype, shape

    def probe(self, key: str) -> tuple[tuple[int, ...], Tensor]:
        handle = self._handle(self._files[key])
        piece = handle[key] if isinstance(handle, dict) else handle.get_slice(key)
        shape = tuple(piece.shape if isinstance(handle, dict) else piece.get_shape())
        if len(shape) < 2:
            return shape, self[key].flatten()
        rows = sorted({0, shape[0] // 2, shape[0] - 1})
        return shape, torch.cat([piece[row : row + 1].flatten()[:256] for row in rows])


class TensorDirectory(TensorFiles):
    """The tensors of a model directory, whole or in shards.

    Raises:
        CheckpointError: no weights, a shard that is missing or leads out of the directory, or a file that is cut off.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        super().__init__(self._weight_files())

    def _weight_files(self) -> list[Path]:
        for index_name in (f'{name}.index.json' for name in WEIGHT_FILES):
            if (index := self.path / index_name).is_file():
                return [self._inside(name, index) for name in shards_of(index)]
        for name in WEIGHT_FILES:
            if (self.path / name).is_file():
                return [self.path / name]
        raise _no_weights(self.path)

    def _inside(self, name: str, index: Path) -> Path:
        if Path(name).name != name:
            raise CheckpointError(
                f'{index} names the shard {clipped(repr(name))}', expected='a plain file name in the same directory'
            )
        if not os.path.isfile(self.path / name):  # false, too, for names that no file can have
            raise CheckpointError(f'{index} names the shard {clipped(name)}, which is missing', fix='download it')
        return self.path / name


class Joined(TensorSource):
    """Tensors of several sources under names of our choosing.

    Args:
        places: name -> source and the tensor's name in it.
    """

    def __init__(self, places: Mapping[str, tuple[TensorSource, str]]) -> None:
        self._places = dict(places)

    @classmethod
    def of(cls, sources: Mapping[str, TensorSource]) -> Joined:
        """Every tensor of every source, behind its source's prefix."""
        return cls({prefix + key: (source, key) for prefix, source in sources.items() for key in source})

    def __getitem__(self, key: str) -> Tensor:
        source, name = self._places[key]
        return source[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def origin(self, key: str) -> tuple[Path, str] | None:
        source, name = self._places[key]
        return source.origin(name)

    def meta(self, key: str) -> tuple[torch.dtype, tuple[int, ...]]:
        source, name = self._places[key]
        return source.meta(name)

    def probe(self, key: str) -> tuple[tuple[int, ...], Tensor]:
        source, name = self._places[key]
        return source.probe(name)


def main_dtype(tensors: TensorSource) -> torch.dtype | None:
    """What ``dtype='auto'`` means: the one dtype that most bytes have; of a base of parts, of the language model's.

    A model runs in one dtype. A LoRA run over a float16 base may still hold its projector in bfloat16.
    """
    llm = [key for key in tensors if key.startswith('llm/')]
    sizes: dict[torch.dtype, int] = {}
    for key in llm or tensors:
        dtype, shape = tensors.meta(key)
        if dtype.is_floating_point:
            sizes[dtype] = sizes.get(dtype, 0) + torch.Size(shape).numel() * dtype.itemsize
    return max(sizes, key=sizes.get, default=None)


def fingerprint(tensors: TensorSource) -> str:
    """Identity of a base: hash over every tensor's name, shape and up to 256 values of three of its rows.

    Fine-tuning moves values in every row of every trained tensor, so two bases differ; the cost is three rows per
    tensor, not a pass over gigabytes. Values are hashed as float32, so a copy in another file format is the same base.
    """
    digest = hashlib.sha256()
    for key in sorted(tensors):
        shape, values = tensors.probe(key)
        digest.update(f'{key}{shape}'.encode() + values.float().contiguous().numpy().tobytes())
    return digest.hexdigest()
