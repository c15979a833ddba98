"""``StoredEncoder``: how an encoder is kept, in a checkpoint's dict or as files of a directory."""

from __future__ import annotations

import inspect
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from mmft.data.text.text_encoder import TextEncoder
from mmft.data.text.tokenizers import load_tokenizer, save_tokenizer, tokenizer_from_files, tokenizer_to_files
from mmft.errors import CheckpointError
from mmft.file_names import ENCODER_FILE, PROCESSOR_FILES
from mmft.json_files import read_json, write_json
from mmft.registry import ENCODERS
from mmft.user_code import code_of, name_of, require_code

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast
    from typing_extensions import Self

__all__ = ['StoredEncoder', 'stored_background']

FORMAT = 1  # of to_dict and encoder.json


class StoredEncoder(TextEncoder, ABC):
    """A ``TextEncoder`` that is built again from its config and its tokenizer's files.

    Attributes:
        BEFORE: arguments that older files do not have, and what such an encoder did.
    """

    BEFORE: ClassVar[Mapping[str, Any]] = {}

    @abstractmethod
    def _config(self) -> dict[str, Any]:
        """Arguments of the constructor but the tokenizer, as plain types."""

    def to_dict(self) -> dict[str, Any]:
        """Everything, tokenizer too, as plain types and uint8 tensors that ``torch.load(weights_only=True)`` reads."""
        files = tokenizer_to_files(self.tokenizer)
        packed = {name: torch.frombuffer(bytearray(data), dtype=torch.uint8) for name, data in files.items()}
        return {**self._kept(), 'tokenizer': packed}

    def _kept(self) -> dict[str, Any]:
        """The config; where it takes them, a user's class and the modules of parts that are not mmft's."""
        config = self._config()
        if (kind := name_of(type(self))) not in (None, 'ChatEncoder'):
            config = {'type': kind, **config}
        return {'format': FORMAT, **({'code': code} if (code := code_of(config)) else {}), **config}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """The encoder that ``to_dict`` wrote.

        Raises:
            CheckpointError: not such a dict, or one of a later format.
        """
        try:
            files = {name: data.numpy().tobytes() for name, data in state['tokenizer'].items()}
        except (KeyError, TypeError, AttributeError) as error:
            raise CheckpointError('no encoder in this dict', expected='what ChatEncoder.to_dict gives') from error
        return cls._build(tokenizer_from_files(files), state, 'this checkpoint')

    def save_pretrained(self, path: str | os.PathLike) -> None:
        """Write tokenizer.json, tokenizer_config.json and encoder.json into a directory."""
        save_tokenizer(self.tokenizer, path)
        write_json(Path(path) / ENCODER_FILE, self._kept())

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike, **changes: Any) -> Self:
        """The encoder that ``save_pretrained`` wrote.

        Args:
            changes: arguments of the constructor in place of the stored ones.

        Raises:
            CheckpointError: the directory holds no encoder.json, a damaged one, or no tokenizer.
        """
        file = Path(path) / ENCODER_FILE
        state = {**read_json(file), **changes}
        return cls._build(load_tokenizer(path), state, str(file))

    @classmethod
    def _build(cls, tokenizer: PreTrainedTokenizerFast, state: Mapping[str, Any], where: str) -> Self:
        if not isinstance(state, Mapping) or state.get('format') != FORMAT:
            raise CheckpointError(
                f'the encoder of {where} is not of format {FORMAT}', fix='read it with the mmft that wrote it'
            )
        require_code(state.get('code'), where)
        own = ('format', 'type', 'code', 'tokenizer')
        kind = ENCODERS.get(state['type']) if state.get('type') else cls
        if not isinstance(kind, type) or not issubclass(kind, StoredEncoder):
            raise CheckpointError(f'{where}: {ENCODERS.unknown(state["type"])}')
        settings = {**kind.BEFORE, **{key: value for key, value in state.items() if key not in own}}
        try:
            inspect.signature(kind).bind(tokenizer, **settings)
        except TypeError as error:
            raise CheckpointError(
                f'the encoder of {where}: {error}', fix='take the file as mmft wrote it, or read it with a newer mmft'
            ) from None
        return kind(tokenizer, **settings)


def stored_background(read: Callable[[str], Mapping[str, Any]]) -> str | Sequence[int] | None:
    """What transparent pictures are laid on by the encoder of a directory (``ChatEncoder.background``).

    ``encoder.json`` says it; else the settings of its image processor, where transformers keeps the key when it saves a
    directory again. White where neither does: exports of 0.1, which dropped alpha, have an ``encoder.json`` without it.

    Args:
        read: gives a JSON file of the directory by its name; empty where there is none.
    """
    if kept := read(ENCODER_FILE):
        return kept.get('background')
    for name in PROCESSOR_FILES:
        numbers = read(name)
        numbers = numbers.get('image_processor', numbers)
        if isinstance(numbers, Mapping) and 'background' in numbers:
            return numbers['background']
    return 'white'
