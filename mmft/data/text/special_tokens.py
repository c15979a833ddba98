"""Tokens that training adds to a tokenizer, and a pad token that ends nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tokenizers import AddedToken

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ['INTERNVL_TOKENS', 'add_special_tokens', 'give_pad_token']

INTERNVL_TOKENS = (
    '<img>', '</img>', '<IMG_CONTEXT>', '<quad>', '</quad>', '<ref>', '</ref>', '<box>', '</box>',
)  # fmt: skip
"""What OpenGVLab's training adds to a language model's tokenizer, in this order."""

_SPARE = ('<|finetune_right_pad_id|>', '<|reserved_special_token_0|>')  # of Llama 3.1 and 3


def add_special_tokens(tokenizer: PreTrainedTokenizerFast, tokens: Sequence[str] = INTERNVL_TOKENS) -> int:
    """Add the tokens that the tokenizer lacks, each as a special token of its own.

    The language model's embedding and head need as many new rows.

    Returns:
        How many were added.
    """
    known = tokenizer.get_added_vocab()
    missing = [token for token in tokens if token and token not in known]
    return tokenizer.add_tokens([AddedToken(token, normalized=False, special=True) for token in missing], True)


def give_pad_token(tokenizer: PreTrainedTokenizerFast, end: str = '') -> str:
    """Make sure that the pad token ends nothing: neither the EOS token nor ``end``, the end of an answer.

    LMDeploy marks pictures with it, so one that occurs in prompts takes a picture's place there. A tokenizer whose pad
    token does gets its unknown token instead, as LLaVA has it, a token that Llama 3 keeps in reserve, for which the
    model's table has a row already, or else a new ``<pad>``.

    Returns:
        The pad token.
    """
    taken = {None, end, tokenizer.eos_token, tokenizer.bos_token}
    if tokenizer.pad_token in taken:
        spare = next((token for token in _SPARE if token in tokenizer.get_added_vocab()), '<pad>')
        new = spare if tokenizer.unk_token in taken else tokenizer.unk_token
        add_special_tokens(tokenizer, [new])
        tokenizer.pad_token = new
    return tokenizer.pad_token
