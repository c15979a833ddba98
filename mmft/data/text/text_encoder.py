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

Why a picture divides a text
    LLaVA tokenizes what stands between its pictures as so many texts, and so does LMDeploy. A Llama tokenizer that
    writes its leading '▁' at the beginning of a text only (``legacy=False``) would leave it out after an image token.
    There one space is put in, which becomes that '▁'. As at the beginning of a text there is none before another token
    such as ``<|im_end|>``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import torch

from mmft.data.text.templates import ChatTemplate
from mmft.data.text.tokenizers import LEADING_SPACE, NAMED_TOKENS
from mmft.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ['TextEncoder']


class TextEncoder:
    """A tokenizer with the template that its language model was trained with.

    Attributes:
        stop_token_ids: where generation ends: the template's end token, its further stops, the tokenizer's EOS.
        control_ids: tokens that are no text of an answer: BOS, EOS, pad and the like, and the template's role tokens.
            Every other special token is text: ``<ref>`` and ``<box>``, or what a user added.
        spaced: the tokenizer writes a space after an added token that the text does not have, as legacy Llama ones do.
        picture_gap: what is put in after an image token: ' ' or nothing (``divide_at``).

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
        self._seams, self.picture_gap, self._unspaced = None, '', ()
        self.stop_token_ids = self._stop_token_ids()
        self.control_ids = self._control_ids()
        self.spaced = self._is_spaced()

    def _stop_token_ids(self) -> list[int]:
        vocab, end = self.tokenizer.get_vocab(), self.template.end.strip()
        if end and end not in vocab:
            raise ConfigError(
                f'template {self.template.name!r} ends answers with {end!r}, which is not a token of this tokenizer',
                expected='the template that the language model was trained with',
                fix='choose another encoder.template; for a model directory: mmft.load(path, template=...)',
            )
        texts = [end, *self.template.stop, self.tokenizer.eos_token]
        ids = [vocab[text] for text in texts if text in vocab]
        if self.template.end and not end:  # the newline after a caption
            ids.insert(0, self._bare_ids('x' + self.template.end)[-1])
        return list(dict.fromkeys(ids))

    def _control_ids(self) -> set[int]:
        template, tokenizer = self.template, self.tokenizer
        texts = [*(template.system or ()), *template.user, template.assistant, template.lead, template.end,
                 template.tail, template.between, *template.stop]  # fmt: skip
        special = {index: str(token) for index, token in tokenizer.added_tokens_decoder.items() if token.special}
        roles = {index for index, token in special.items() if any(token in text for text in texts)}
        named = {getattr(tokenizer, f'{name}_id', None) for name in NAMED_TOKENS}
        return roles | (named - {None})

    def _is_spaced(self) -> bool:
        token = next(iter(self.tokenizer.get_added_vocab()), '')
        alone, after = (self.tokenizer.decode(self._bare_ids(text)) for text in ('a', token + 'a'))
        return (alone, after) == ('a', token + ' a')

    def _bare_ids(self, text: str) -> list[int]:
        return self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids

    def divide_at(self, token: str) -> None:
        """Tokenize what follows ``token`` as a text of its own, where this tokenizer makes a difference there."""
        alone, after, spaced = self._bare_ids('a'), self._bare_ids(token + 'a'), self._bare_ids(token + ' a')
        if after[1:] != alone == spaced[1:]:
            added = self.tokenizer.get_added_vocab()
            self._unspaced, self.picture_gap = tuple(text for text in added if text not in self._leading), ' '
            self._seams = re.compile(rf'(?<={re.escape(token)})(?!{"|".join(map(re.escape, self._unspaced))}|\Z)')

    @property
    def pad_token_id(self) -> int:
        """What fills short rows of a batch. It may occur in texts too: nothing reads masks off it."""
        pad, eos = self.tokenizer.pad_token_id, self.tokenizer.eos_token_id
        return pad if pad is not None else eos if eos is not None else 0

    def encode_text(self, pieces: Sequence[tuple[str, bool]], is_prompt: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Tokenize pieces of text (text, trained?) as one text.

        Args:
            is_prompt: an answer follows, so an end token that the tokenizer appends (``add_eos_token``) is left out.

        Returns:
            Token ids (L,) int64, and whether each begins in a trained piece (L,) bool. Tokens that the tokenizer adds
            itself, such as BOS, are not trained.
        """
        text, spaces = self._spaced(''.join(piece for piece, _ in pieces))
        encoding = self.tokenizer.backend_tokenizer.encode(text)
        starts = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)[:, 0]
        starts -= np.searchsorted(spaces, starts)  # a token that begins with such a space begins what follows it
        filled = [(len(piece), flag) for piece, flag in pieces if piece]
        ends = np.cumsum([length for length, _ in filled])
        flags = np.array([flag for _, flag in filled] + [False])
        trained = flags[np.searchsorted(ends, starts, side='right')]
        own = np.array(encoding.special_tokens_mask) == 0  # not added by the tokenizer itself
        stop = int(np.flatnonzero(own)[-1]) + 1 if is_prompt and own.any() else len(own)
        return np.array(encoding.ids, dtype=np.int64)[:stop], (trained & own)[:stop]

    def _spaced(self, text: str) -> tuple[str, np.ndarray]:
        """The text with the spaces that the tokenizer wants, and where in it they are."""
        prefix = self._prefix(text)
        stretches = self._seams.split(prefix + text) if self._seams else [prefix + text]
        places = np.cumsum([len(stretch) for stretch in stretches])[:-1] + np.arange(len(stretches) - 1)
        return self.picture_gap.join(stretches), np.append([0] if prefix else [], places).astype(np.int64)

    def _prefix(self, text: str) -> str:
        return ' ' if self._leading and text.startswith(self._leading) else ''

    @property
    def text_prefix(self) -> str:
        """What must stand before the template's text for this tokenizer: ' ' or nothing (``LEADING_SPACE``)."""
        return self._prefix(self.template.text([{'role': 'user', 'content': 'x'}]))

    def decode(self, ids: Sequence[int] | torch.Tensor) -> str:
        """The answer that generated ids spell: up to the first stop token, without control tokens and outer spaces.

        Answers, references, chat, servers and exports all decode by this rule: ``control_ids`` go, everything else is
        text, and comes back as it was written.
        """
        ids = torch.as_tensor(ids).reshape(-1).tolist()
        end = next((place for place, index in enumerate(ids) if index in self.stop_token_ids), len(ids))
        ids = [index for index in ids[:end] if index not in self.control_ids]
        added = self.tokenizer.added_tokens_decoder if self.spaced else {}
        runs = [list(run) for _, run in groupby(ids, key=lambda index: index in added)]
        return ''.join(self.tokenizer.decode(run, skip_special_tokens=False) for run in runs).strip()
