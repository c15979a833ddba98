"""The chat template that a directory was trained with, where no ``encoder.json`` says it.

A directory that another program saved again has lost that file, but not its chat template in Jinja: what that writes
decides, or a warning says that mmft asks otherwise.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmft.data.text.templates import ChatTemplate, build_template
from mmft.data.text.templates.foreign import (
    FIRST,
    TURNS,
    ForeignTemplate,
    agreeing,
    read_jinja,
    same_but_for_system,
)
from mmft.data.text.tokenizers import LEADING_SPACE
from mmft.registry import TEMPLATES
from mmft.words import clipped

if TYPE_CHECKING:
    from mmft.data.encoder import ChatEncoder

__all__ = ['check_stored', 'directory_template']

logger = logging.getLogger('mmft')


def directory_template(usual: Any, tokenizer: Any, directory: Path, files: Sequence[str]) -> ChatTemplate:
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


def check_stored(encoder: ChatEncoder, directory: Path) -> None:
    """Log a warning if a directory's ``encoder.json`` and its chat template in Jinja do not write the same."""
    foreign = read_jinja(directory, encoder.tokenizer)
    if foreign is None or foreign.file == 'tokenizer_config.json' or encoder.template.caption_only:
        return
    if agreeing(foreign, encoder.template, encoder.text_prefix) != encoder.template:
        _warn(directory, foreign, encoder.template)


def _warn(directory: Path, foreign: ForeignTemplate, template: ChatTemplate) -> None:
    probe = FIRST if foreign.text(FIRST) != template.text(FIRST, True) else TURNS
    theirs = foreign.text(probe)
    shown = 'takes no question' if theirs is None else f'writes {clipped(repr(theirs), 400)}'
    logger.warning(
        f'{directory}: {foreign.file} {shown}; mmft asks the model with the template {template.name!r}, '
        f'{clipped(repr(template.text(probe, True)), 400)}. If it was trained with the former, its answers suffer: '
        'name the right one, mmft.load(..., template=...)'
    )
