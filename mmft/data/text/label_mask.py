"""The label mask made visible: which stretches of a sample are trained."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from mmft.structures import IGNORE_INDEX, Sample
from mmft.words import printable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ['describe', 'render_mask']

_GREEN, _GREY, _RESET = '\033[32m', '\033[90m', '\033[0m'


def describe(tokenizer: PreTrainedTokenizerFast, sample: Sample, image_token_id: int) -> list[tuple[str, bool]]:
    """Stretches of text, each with whether it is trained. A run of n image tokens reads ``<IMG_CONTEXT>xn``."""
    tokens = list(zip(sample.input_ids.tolist(), (sample.labels != IGNORE_INDEX).tolist(), strict=True))
    image = tokenizer.convert_ids_to_tokens(image_token_id)
    stretches: list[tuple[str, bool]] = []
    for (trained, pictured), run in groupby(tokens, key=lambda token: (token[1], token[0] == image_token_id)):
        ids = [index for index, _ in run]
        text = f'{image}x{len(ids)}' if pictured else tokenizer.decode(ids, skip_special_tokens=False)
        if stretches and stretches[-1][1] == trained:
            text = stretches.pop()[0] + text
        stretches.append((text, trained))
    return stretches


def render_mask(stretches: Sequence[tuple[str, bool]]) -> str:
    """The stretches in colour for a terminal: trained text green, everything else grey.

    >>> render_mask([('Q: Hi', False), ('Hello', True)])
    '\\x1b[90mQ: Hi\\x1b[0m\\x1b[32mHello\\x1b[0m'
    """
    return ''.join(f'{_GREEN if trained else _GREY}{printable(text)}{_RESET}' for text, trained in stretches)
