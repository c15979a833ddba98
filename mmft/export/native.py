"""mmft's own directory, which holds any mix of parts: ``mmft.load`` reads it, and nothing else does.

``config.json`` has the ``model`` dict of the config; tensors have mmft's names; ``encoder.json`` and the tokenizer lie
beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmft.errors import ConfigError
from mmft.export.files import Contents, generation_config, llm_ids, write_encoder, write_json
from mmft.layouts import Native
from mmft.layouts.adjust import Fit
from mmft.own_code import code_of

__all__ = ['UNTIE', 'check', 'fits', 'model_config', 'write_files']

UNTIE = False


def model_config(contents: Contents) -> dict[str, Any]:
    """``config.json``."""
    model = {**contents.model_config, 'image_token_id': contents.image_token_id}
    code = code_of(model)
    return {
        'architectures': [Native.architecture],
        'model_type': 'mmft',
        'dtype': contents.dtype,
        **({'code': code} if code else {}),
        'model': _plain(model, 'model'),
    }


def _plain(value: Any, name: str) -> Any:
    """The value as JSON has it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f'{name}.{key}') for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f'{name}[{i}]') for i, item in enumerate(value)]
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    raise ConfigError(
        f'{name} = {value!r} cannot be written to config.json',
        expected='numbers, strings, lists and dicts',
        fix='write it as a plain value in the config',
    )


def check(contents: Contents) -> None:
    """Raises ``ConfigError`` for a model dict that JSON cannot hold."""
    model_config(contents)


def fits(contents: Contents) -> dict[str, Fit]:
    """No tensor needs fitting: each is written as it is."""
    return {}


def write_files(directory: Path, contents: Contents) -> None:
    """Everything but the weights."""
    write_json(directory / 'config.json', model_config(contents))
    encoder = contents.encoder
    ids = llm_ids(contents.model.llm.lm.config.to_dict(), encoder)
    write_json(directory / 'generation_config.json', generation_config(ids, encoder))
    if encoder is not None:
        write_encoder(directory, encoder, {}, encoder.image_start + encoder.image_token + encoder.image_end)
