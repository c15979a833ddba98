"""The chat template that a directory was trained with, where no ``encoder.json`` says it.

A directory that another program saved again has lost that file, but not its chat template in Jinja: what that writes
decides, or a warning says that mmft asks otherwise.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmft.data.text.templates import ChatTemplate, build_template
from mmft.data.text.templates.foreign import (
    FIRST,
    SYSTEM,
    TURNS,
    ForeignTemplate,
    agreeing,
    read_jinja,
    same_but_for_system,
)
from mmft.data.text.tokenizers import LEADING_SPACE
from mmft.errors import MMFTError
from mmft.files.directory import ModelDirectory
from mmft.layouts import matches_any
from mmft.registry import TEMPLATES
from mmft.structures import Message
from mmft.words import clipped

if TYPE_CHECKING:
    from mmft.data.encoder import ChatEncoder

__all__ = ['check_kept', 'other_template', 'own_template']

logger = logging.getLogger('mmft')


def own_template(usual: Any, tokenizer: Any, directory: Path, files: Sequence[str]) -> ChatTemplate:
    """The template of a directory.

    Args:
        usual: that of its kind: a name, config or template.
        tokenizer: the directory's.
        files: those of ``TEMPLATE_FILES`` that decide for its kind; one that mmft wrote decides for every kind.
    """
    usual, foreign = build_template(usual), read_jinja(directory, tokenizer)
    if foreign is None or not (foreign.mark or foreign.file in files):
        return usual
    prefix = ' ' if tokenizer.init_kwargs.get(LEADING_SPACE) else ''
    for template in _candidates(foreign, usual):
        if found := agreeing(foreign, template, prefix):
            return found
    if not same_but_for_system(foreign, usual):
        _warn(directory, foreign, usual)
    return usual


def _candidates(foreign: ForeignTemplate, usual: ChatTemplate) -> Iterator[ChatTemplate]:
    """Ours: the one that it was written from, the usual one, then all others; last those that strip texts."""
    if foreign.mark in TEMPLATES.module_dict:
        yield build_template(foreign.mark)
    yield usual
    yield from sorted(map(build_template, list(TEMPLATES.module_dict)), key=lambda template: template.strip)


def check_kept(encoder: ChatEncoder, directory: Path) -> None:
    """Log a warning if a directory's ``encoder.json`` and its chat template in Jinja do not write the same."""
    foreign = read_jinja(directory, encoder.tokenizer)
    if foreign is None or foreign.file == 'tokenizer_config.json' or encoder.template.caption_only:
        return
    if agreeing(foreign, encoder.template, encoder.text_prefix) != encoder.template:
        _warn(directory, foreign, encoder.template)


def other_template(encoder: ChatEncoder, directory: Path) -> tuple[int, str]:
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
    from mmft.checkpoint.load import load_encoder

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


def _warn(directory: Path, foreign: ForeignTemplate, template: ChatTemplate) -> None:
    probe = FIRST if foreign.text(FIRST) != template.text(FIRST, True) else TURNS
    theirs = foreign.text(probe)
    shown = 'takes no question' if theirs is None else f'writes {clipped(repr(theirs), 400)}'
    logger.warning(
        f'{directory}: {foreign.file} {shown}; mmft asks the model with the template {template.name!r}, '
        f'{clipped(repr(template.text(probe, True)), 400)}. If it was trained with the former, its answers suffer: '
        'name the right one, mmft.load(..., template=...)'
    )
