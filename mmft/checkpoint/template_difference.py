"""Whether an encoder prompts a model differently from the directory of its tokenizer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmft.checkpoint.encoder import load_encoder
from mmft.data.text.templates import ChatTemplate
from mmft.data.text.templates.foreign import FIRST, SYSTEM, TURNS, read_jinja
from mmft.errors import MMFTError
from mmft.files.directory import ModelDirectory
from mmft.layouts import matches_any
from mmft.structures import Message
from mmft.words import clipped

if TYPE_CHECKING:
    from mmft.data.encoder import ChatEncoder

__all__ = ['template_difference']


def template_difference(encoder: ChatEncoder, directory: Path) -> tuple[int, str]:
    """What to say where an encoder's template is not the one that its tokenizer's directory comes with.

    Args:
        directory: of a whole model, whose files say its template, or of a language model with a chat template in Jinja.

    Returns:
        A level of ``logging`` and a message, which is empty where there is nothing to say: a warning for a template of
        nearly the same text (ChatML without its newlines), information where the two have nothing in common, which is
        meant as a rule, or differ in the default system message only.
    """
    own, reference = encoder.template, _reference(encoder, directory)
    if reference is None or own.caption_only:
        return logging.INFO, ''
    pairs = ((_written(own, probe), reference(probe)) for probe in (SYSTEM, TURNS))
    ours, theirs = next((pair for pair in pairs if None not in pair), (None, None))
    what, near = 'is not', bool(own.user[0].strip()) and own.user[0].strip() in (theirs or '')
    if ours == theirs:
        ours, theirs = own.text(FIRST, True), reference(FIRST)
        what, near = 'has another default system message than', False
    if theirs is None or ours == theirs:
        return logging.INFO, ''
    ids = [encoder.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids for text in (ours, theirs)]
    place = next((n for n, (a, b) in enumerate(zip(*ids, strict=False)) if a != b), min(map(len, ids)))
    message = (
        f'encoder.template {own.name!r} {what} the template that {directory} comes with; the token ids differ from '
        f'place {place} on:\n  encoder.template: {clipped(repr(ours), 600)}\n  its own:          '
        f'{clipped(repr(theirs), 600)}'
    )
    return logging.WARNING if near else logging.INFO, message


def _written(template: ChatTemplate, probe: Sequence[Message]) -> str | None:
    return None if probe is SYSTEM and template.system is None else template.text(probe, True)


def _reference(encoder: ChatEncoder, directory: Path) -> Callable[[Sequence[Message]], str | None] | None:
    """What a directory's own template writes for a conversation, up to the answer; None where it has none."""
    if matches_any(_config(directory)):
        try:
            kept = load_encoder(directory, 1)
        except MMFTError:  # it is read, and complained of, elsewhere
            return None
        return None if kept is None else lambda probe: _written(kept.template, probe)
    foreign, prefix = read_jinja(directory, encoder.tokenizer), encoder.text_prefix
    return None if foreign is None else lambda probe: (foreign.text(probe) or '').removeprefix(prefix) or None


def _config(directory: Path) -> dict[str, Any]:
    try:
        return ModelDirectory(directory).config
    except MMFTError:  # a tokenizer alone
        return {}
