"""Chat templates in Jinja, as directories and tokenizers of other programs hold them: rendered and compared with ours.

They are rendered in transformers' sandbox and nowhere else. What they write for a few short conversations says which
of our templates they are, and with which system message.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmft.data.text.templates.chat_template import ChatTemplate
from mmft.data.text.templates.jinja import MARK
from mmft.file_names import TEMPLATE_FILES
from mmft.structures import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ['FIRST', 'SYSTEM', 'TURNS', 'ForeignTemplate', 'agreeing', 'read_jinja',
           'same_but_for_system']  # fmt: skip

FIRST = (Message(role='user', content='What is it?'),)
TURNS = (*FIRST, Message(role='assistant', content='A dish.'), Message(role='user', content='Which one?'))
SYSTEM = (Message(role='system', content='Be brief.'), *TURNS)


class ForeignTemplate:
    """A chat template in Jinja.

    Args:
        source: the Jinja.
        tokenizer: whose special tokens it may write.
        file: where it was found.

    Attributes:
        mark: the name of the template that mmft wrote it from; empty for one of another program.
    """

    def __init__(self, source: str, tokenizer: PreTrainedTokenizerFast, file: str = '') -> None:
        self.source, self.file = source, file
        self.mark = found[1] if (found := re.match(MARK, source)) else ''
        self._tokens = {name: getattr(tokenizer, name) or '' for name in ('bos_token', 'eos_token', 'pad_token')}

    def text(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> str | None:
        """What it writes, without the BOS token, which tokenizers add; None where it does not take these messages."""
        from transformers.utils.chat_template_utils import render_jinja_template

        as_parts = [{**turn, 'content': [{'type': 'text', 'text': turn['content']}]} for turn in messages]
        for conversation in (as_parts, list(messages)):
            try:
                rendered, _ = render_jinja_template(
                    conversations=[conversation], chat_template=self.source,
                    add_generation_prompt=add_generation_prompt, **self._tokens,
                )  # fmt: skip
            except Exception:  # a template is a program of others
                continue
            written = "'type': 'text'" not in rendered[0]  # a list that is written as a list was not understood
            if written and all(turn['content'] in rendered[0] for turn in messages):
                return rendered[0].removeprefix(self._tokens['bos_token'])
        return None


def read_jinja(directory: str | Path, tokenizer: PreTrainedTokenizerFast) -> ForeignTemplate | None:
    """The chat template that a directory's programs use; None where there is none."""
    for name in TEMPLATE_FILES:
        try:
            source = (Path(directory) / name).read_text(encoding='utf-8')
            source = source if name.endswith('.jinja') else _source(json.loads(source))
        except (OSError, ValueError):  # reported where the file is needed
            continue
        if source:
            return ForeignTemplate(source, tokenizer, name)
    return None


def _source(content: Any) -> str:
    found = content.get('chat_template') if isinstance(content, Mapping) else None
    if isinstance(found, list):  # several with names
        found = {entry.get('name'): entry.get('template') for entry in found if isinstance(entry, Mapping)}
    if isinstance(found, Mapping):
        found = found.get('default')
    return found if isinstance(found, str) else ''


def agreeing(foreign: ForeignTemplate, template: ChatTemplate, prefix: str = '') -> ChatTemplate | None:
    """The template with the system message that ``foreign`` writes, where they agree in everything else; else None.

    Args:
        prefix: what may stand before a text (``to_jinja``).
    """
    if template.caption_only:  # it writes no question, so nothing but its mark tells it
        return template if foreign.mark == template.name else None
    probes = (FIRST, TURNS) if template.system is None else (FIRST, TURNS, SYSTEM)
    theirs = [foreign.text(probe) for probe in probes]
    theirs = [text if text is None else text.removeprefix(prefix) for text in theirs]
    if theirs[0] is None:
        return None
    for message in _system_messages(theirs[0], template):
        made = replace(template, system_message=message)
        # One that refuses a system message says nothing of it.
        if all(text in (None, made.text(probe, True)) for probe, text in zip(probes, theirs, strict=True)):
            return made
    return None


def _system_messages(text: str, template: ChatTemplate) -> Iterator[str | None]:
    """What the system message of a template may be that writes ``text`` for a first question."""
    yield template.system_message
    if template.system is None:
        return
    head, _, tail = replace(template, system_message='\0').text(FIRST, True).partition('\0')
    if text.startswith(head) and text.endswith(tail) and len(text) >= len(head + tail):
        yield text[len(head) : len(text) - len(tail)]
    yield None


def same_but_for_system(foreign: ForeignTemplate, template: ChatTemplate) -> bool:
    """Whether ``foreign`` asks a first question as the template does, only without any system text.

    Templates of LLaVA's published directories are such: they leave out its system message, and the end tokens too.
    """
    bare = template if template.system is None else replace(template, system_message=None)
    return foreign.text(FIRST) == bare.text(FIRST, True)
