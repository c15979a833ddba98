"""Tensors of a model directory, read one at a time: safetensors or ``.bin``, whole or in shards.

Nothing in the directory is executed: safetensors hold no code, ``.bin`` files are read with ``weights_only=True``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from mmft.errors import CheckpointError

__all__ = ['TensorDirectory', 'fingerprint', 'read_json']

_SINGLE = ('model.safetensors', 'pytorch_model.bin')


def read_json(path: Path) -> dict:
    """A JSON file; a ``CheckpointError`` names it where it is missing or broken."""
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except FileNotFoundError:
        raise CheckpointError(
            f'no {path.name} in {path.parent}',
            expected='a model directory',
            fix='check the path; download all files of the model into it',
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f'{path}: not valid JSON: {error}', fix='download the file again') from error
    if not isinstance(content, dict):
        raise CheckpointError(f'{path} holds a {type(content).__name__}', expected='a JSON object')
    return content


class TensorDirectory(Mapping[str, Tensor]):
    """A read-only mapping from the names in a directory's weight files to tensors; each access reads one tensor.

    Raises:
        CheckpointError: no weights, a shard that is missing or leads out of the directory, or a file that is cut off.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._files: dict[str, Path] = {}
        self._open: dict[Path, object] = {}
        for file in self._weight_files():
            for key in self._handle(file).keys():  # noqa: SIM118  safe_open handles are no mappings
                self._files[key] = file

    @property
    def files(self) -> list[Path]:
        """The weight files, each once."""
        return list(dict.fromkeys(self._files.values()))

    def _weight_files(self) -> list[Path]:
        for index_name in (f'{name}.index.json' for name in _SINGLE):
            if (index := self.path / index_name).is_file():
                names = sorted(set(read_json(index).get('weight_map', {}).values()))
                return [self._inside(name, index) for name in names]
        for name in _SINGLE:
            if (self.path / name).is_file():
                return [self.path / name]
        raise CheckpointError(
            f'no weights in {self.path}',
            expected=' or '.join((*_SINGLE, 'their .index.json with all shards')),
            fix='download the weight files into this directory',
        )

    def _inside(self, name: str, index: Path) -> Path:
        if Path(name).name != name:
            raise CheckpointError(
                f'{index} names the shard {name!r}', expected='a plain file name in the same directory'
            )
        if not (self.path / name).is_file():
            raise CheckpointError(f'{index} names the shard {name}, which is missing', fix='download it')
        return self.path / name

    def _handle(self, file: Path):
        if file not in self._open:
            try:
                if file.suffix == '.safetensors':
                    self._open[file] = safe_open(file, framework='pt')
                else:
                    self._open[file] = torch.load(file, map_location='cpu', weights_only=True, mmap=True)
            except Exception as error:
                raise CheckpointError(
                    f'{file} cannot be read: {error}', expected='a whole weight file', fix='download it again'
                ) from error
        return self._open[file]

    def __getitem__(self, key: str) -> Tensor:
        handle = self._handle(self._files[key])
        return handle[key] if isinstance(handle, dict) else handle.get_tensor(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def probe(self, key: str) -> tuple[tuple[int, ...], Tensor]:
        """Shape, and 256 values each of a tensor's first, middle and last row, without reading the rest."""
        handle = self._handle(self._files[key])
        piece = handle[key] if isinstance(handle, dict) else handle.get_slice(key)
        shape = tuple(piece.shape if isinstance(handle, dict) else piece.get_shape())
        if len(shape) < 2:
            return shape, self[key].flatten()
        rows = sorted({0, shape[0] // 2, shape[0] - 1})
        return shape, torch.cat([piece[row : row + 1].flatten()[:256] for row in rows])


def fingerprint(tensors: TensorDirectory) -> str:
    """Identity of a base: hash over every tensor's name, shape and up to 256 values of three of its rows.

    Fine-tuning moves values in every row of every trained tensor, so two bases differ; the cost is three rows per
    tensor, not a pass over gigabytes. Values are hashed as float32, so a copy in another file format is the same base.
    """
    digest = hashlib.sha256()
    for key in sorted(tensors):
        shape, values = tensors.probe(key)
        digest.update(f'{key}{shape}'.encode() + values.float().contiguous().numpy().tobytes())
    return digest.hexdigest()
