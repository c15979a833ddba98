"""``TextEncoder``: from pieces of text to token ids and a mask of what is trained, by one tokenization.

Why labels come from character offsets
    The template says of every piece of text whether it is trained; the tokenizer says at which character every token
    begins. A token is trained if it begins inside a trained piece: that is all. The text is tokenized once, as a whole,
    as the model sees it when it is served.

    The original implementations instead tokenize pieces of the text again and add up their lengths. That goes wrong
    wherever a piece alone becomes other tokens than inside the text (merges across the border, a leading '▁', BOS,
    whitespace that a role token swallows), or where the pad token's text occurs in a message: OpenGVLab then masks the
    whole sample and LLaVA shifts the mask. Offsets have none of these cases, and where the originals are right the
    labels are equal.

    A token that lies across a border belongs to the piece in which it begins: a newline that ends the prompt and those
    that begin the answer may be one token, which the prompt already holds. The bytes of one character, as byte-level
    tokenizers split it, all begin at that character.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from mmft.data.templates import ChatTemplate
from mmft.data.tokenizers import LEADING_SPACE
from mmft.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ['TextEncoder']


class TextEncoder:
    """A tokenizer with the template that its language model was trained with.

    Attributes:
        stop_token_ids: where generation ends: the template's end token, its further stops, the tokenizer's EOS.

    Raises:
        ConfigError: the tokenizer has no offsets, or lacks the template's end token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, template: ChatTemplate) -> None:
        if not getattr(tokenizer, 'is_fast', False):
            raise ConfigError(
                f'a {type(tokenizer).__name__}',
                expected='a fast tokenizer: labels need character offsets',
                fix='pass its directory, or load it with mmft.data.load_tokenizer',
            )
        self.tokenizer, self.template = tokenizer, template
        self._leading = tuple(tokenizer.init_kwargs.get(LEADING_SPACE, ()))
        self.stop_token_ids = self._stop_token_ids()

    def _stop_token_ids(self) -> list[int]:
        vocab, end = self.tokenizer.get_vocab(), self.template.end.strip()
        if end and end not in vocab:
            raise ConfigError(
                f'template {self.template.name!r} ends answers with {end!r}, which is not a token of this tokenizer',
                expected='the template that the language model was trained with',
                fix='choose another encoder.template',
            )
        texts = [end, *self.template.stop, self.tokenizer.eos_token]
        return list(dict.fromkeys(vocab[text] for text in texts if text in vocab))

    @property
    def pad_token_id(self) -> int:
        """What fills short rows of a batch. It may occur in texts too: nothing reads masks off it."""
        pad, eos = self.tokenizer.pad_token_id, self.tokenizer.eos_token_id
        return pad if pad is not None else eos if eos is not None else 0

    def encode_text(self, pieces: Sequence[tuple[str, bool]]) -> tuple[np.ndarray, np.ndarray]:
        """Tokenize pieces of text (text, trained?) as one text.

        Returns:
            Token ids (L,) int64, and whether each begins in a trained piece (L,) bool. Tokens that the tokenizer adds
            itself, such as BOS, are not trained.
        """
        text = ''.join(piece for piece, _ in pieces)
        prefix = self._prefix(text)
        encoding = self.tokenizer.backend_tokenizer.encode(prefix + text)
        starts = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)[:, 0] - len(prefix)
        filled = [(len(piece), flag) for piece, flag in pieces if piece]
        ends = np.cumsum([length for length, _ in filled])
        flags = np.array([flag for _, flag in filled] + [False])
        trained = flags[np.searchsorted(ends, starts, side='right')]
        trained &= np.array(encoding.special_tokens_mask) == 0
        return np.array(encoding.ids, dtype=np.int64), trained

    def _prefix(self, text: str) -> str:
        return ' ' if self._leading and text.startswith(self._leading) else ''

    @property
    def text_prefix(self) -> str:
        """What must stand before the template's text for this tokenizer: ' ' or nothing (``LEADING_SPACE``)."""
        return self._prefix(self.template.system[0] + self.template.system_message + self.template.system[1])

    def decode(self, ids: Sequence[int] | torch.Tensor) -> str:
        """The answer that generated ids spell: up to the first stop token, without special tokens and outer spaces."""
        ids = torch.as_tensor(ids).reshape(-1).tolist()
        end = next((place for place, index in enumerate(ids) if index in self.stop_token_ids), len(ids))
        return self.tokenizer.decode(ids[:end], skip_special_tokens=True).strip()
