"""mmft's own directory, which holds any mix of parts: ``mmft.load`` reads it, and nothing else does.

``config.json`` has the ``model`` dict of the config; tensors have mmft's names; ``encoder.json`` and the tokenizer lie
beside them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmft.export.files import Contents, generation_config, llm_ids, write_encoder, write_json
from mmft.layouts import Native
from mmft.layouts.adjust import Fit
from mmft.own_code import code_of
from mmft.plain_json import model_json

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
        'model': model_json(model),
    }


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
