"""Whether every token of a tokenizer has a row in the language model's table, and rows for those that have none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmft.errors import ConfigError
from mmft.models.base import LanguageModel
from mmft.words import count_of

__all__ = ['check_rows', 'grow', 'last_token']


def last_token(encoder: Any) -> tuple[int, str]:
    """The largest id that can reach the table, and its token.

    The image token does not count: its places are filled with image features (``VLM.fuse``).
    """
    ids = encoder.tokenizer.get_vocab()
    return max((index, token) for token, index in ids.items() if index != encoder.image_token_id)


def check_rows(encoder: Any, llm: LanguageModel) -> None:
    """Every token has a row.

    Raises:
        ConfigError: names those that have none. A CPU would find out at the first step, a GPU stop with an assert.
    """
    if getattr(encoder, 'tokenizer', None) is None or last_token(encoder)[0] < llm.vocab_size:
        return
    ids = encoder.tokenizer.get_vocab()
    beyond = sorted((i, token) for token, i in ids.items() if i >= llm.vocab_size and i != encoder.image_token_id)
    named = ', '.join(f'{token!r} (id {index})' for index, token in beyond[:4])
    raise ConfigError(
        f'the tokenizer has {count_of(len(beyond), "token")} beyond the table of the language model: '
        f'{named}{", ..." if len(beyond) > 4 else ""}',
        expected=f'ids from 0 to {llm.vocab_size - 1}: model.llm has vocab_size {llm.vocab_size}',
        fix='set resize_embeddings=True, which adds rows and trains them, or take the tokenizer of this model',
    )


def grow(llm: LanguageModel, encoder: Any, tune: Mapping[str, Any]) -> dict[str, Any]:
    """Add the rows that are missing.

    Returns:
        ``tune``, in which the tables train where they have grown: new rows that stay as they began mean nothing.
    """
    rows = last_token(encoder)[0] + 1
    if rows <= llm.vocab_size:
        return dict(tune)
    llm.add_rows(rows)
    given = tune.get('llm', 'full')
    spec = dict(given) if isinstance(given, Mapping) else {'type': given}
    return {**tune, 'llm': {**spec, 'embeddings': True}}
