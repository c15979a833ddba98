"""GGUF files of language models as tensors: transformers' own reader, weights dequantised one at a time.

A GGUF file is data: numbers, texts, tensors. Its names and its order of rows in q and k are llama.cpp's; transformers
has the tables that lead back. The tokenizer, which is in the file too, ``load_tokenizer`` reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmft.errors import CheckpointError
from mmft.files.tensors import TensorSource
from mmft.gguf_files import check_gguf, unreadable_gguf
from mmft.words import count_of, printable

__all__ = ['GGUFFile']


class GGUFFile(TensorSource):
    """The tensors of a GGUF file under transformers' names, as float32.

    Attributes:
        config: what ``config.json`` would say.

    Raises:
        CheckpointError: no GGUF file, a damaged one, or of a model that transformers does not read from GGUF.
        ConfigError: the package ``gguf`` is not installed.
    """

    def __init__(self, path: Path) -> None:
        check_gguf(path)
        self.path = path
        try:
            self._open()
        except CheckpointError:
            raise
        except Exception as error:  # whatever damage makes of a file
            raise unreadable_gguf(path, error) from error

    def _open(self) -> None:
        from gguf import GGUFReader
        from transformers import AutoConfig, AutoModelForCausalLM
        from transformers.modeling_gguf_pytorch_utils import (
            TENSOR_PROCESSORS,
            TensorProcessor,
            get_gguf_hf_weights_map,
            load_gguf_checkpoint,
        )

        settings = load_gguf_checkpoint(str(self.path))['config']
        config = AutoConfig.for_model(**settings)
        self.config: dict[str, Any] = config.to_dict()
        with torch.device('meta'):
            model = AutoModelForCausalLM.from_config(config)
        reader = GGUFReader(self.path)
        kind = reader.fields['general.architecture'].contents()
        self._processor = TENSOR_PROCESSORS.get(kind, TensorProcessor)(config=settings)
        self._names = get_gguf_hf_weights_map(model, self._processor)
        if unknown := [tensor.name for tensor in reader.tensors if tensor.name not in self._names]:
            raise CheckpointError(
                f'{printable(self.path)}: {count_of(len(unknown), "tensor")} that transformers does not read, such as '
                f'{printable(unknown[0])}',
                expected=f'the tensors of a {config.model_type}',
                fix='take its safetensors instead',
            )
        self._tensors = {self._names[tensor.name]: tensor for tensor in reader.tensors}

    def __getitem__(self, key: str) -> Tensor:
        from gguf import dequantize

        stored = self._tensors[key]
        try:
            weights = dequantize(stored.data, stored.tensor_type)
            read = self._processor.process(
                weights=weights, name=stored.name, tensor_key_mapping=self._names, parsed_parameters={'tensors': {}}
            )
            return torch.from_numpy(read.weights.copy()).float()
        except Exception as error:  # kinds of quantisation that gguf does not know, blocks that do not fit
            raise unreadable_gguf(self.path, error) from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def origin(self, key: str) -> None:
        return None

    def meta(self, key: str) -> tuple[torch.dtype, tuple[int, ...]]:
        return torch.float32, tuple(int(size) for size in reversed(self._tensors[key].shape))

    def probe(self, key: str) -> tuple[tuple[int, ...], Tensor]:
        value = self[key]
        if value.dim() < 2:
            return tuple(value.shape), value.flatten()
        rows = sorted({0, len(value) // 2, len(value) - 1})
        return tuple(value.shape), torch.cat([value[row].flatten()[:256] for row in rows])
