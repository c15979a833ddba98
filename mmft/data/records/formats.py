"""Readers: one JSON record of a known format -> the messages and picture paths that the encoder takes.

A format is one function with a decorator; it is recognised by the keys of the record, never by file names::

    @register_format('captions', keys={'caption', 'file_name'})
    def read_captions(raw):
        messages = [{'role': 'user', 'content': '<image>'}, {'role': 'assistant', 'content': raw['caption']}]
        return messages, [raw['file_name']]
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from mmft.data.records.marks import unread_marks
from mmft.data.records.record_keys import NAMES_PICTURES, unread_keys
from mmft.data.records.turns import read_content, read_text, read_turns
from mmft.data.text.conversation import check_conversation, check_placeholders
from mmft.data.text.templates import ChatTemplate
from mmft.errors import ConfigError, DataError
from mmft.structures import IMAGE_PLACEHOLDER, Message
from mmft.words import clipped

__all__ = ['Record', 'answers_of', 'format_names', 'parse_record', 'register_format']

Reader = Callable[[dict[str, Any]], tuple[list[Message], list[str]]]


@dataclass(slots=True)
class Record:
    """One conversation as it stands in the annotation file, checked and in mmft's own words.

    Attributes:
        messages: legal ones (``mmft.data.text.conversation``), of which the last is an answer.
        images: picture paths in the order of the placeholders: as written; full ones once a dataset has read it.
        raw: the JSON object.
        meta: ``file``, ``line``, ``index`` and, where the record has one, ``id``.
        unread: what of it is neither read nor known to be harmless, as phrases for a report.
    """

    messages: list[Message]
    images: list[str]
    raw: dict[str, Any]
    meta: dict[str, Any] = field(default_factory=dict)
    unread: tuple[str, ...] = ()

    @property
    def answer(self) -> str:
        """The last answer that is trained."""
        return self.messages[self._last]['content']

    @property
    def references(self) -> list[str]:
        """What counts as right: the record's ``answers``, else its last answer that is trained."""
        return answers_of(self.raw) or [self.answer]

    @property
    def question(self) -> tuple[list[Message], list[str]]:
        """The turns before that answer, as a prompt has them, and their pictures."""
        turns = [Message(role=turn['role'], content=turn['content']) for turn in self.messages[: self._last]]
        count = sum(turn['content'].count(IMAGE_PLACEHOLDER) for turn in turns if turn['role'] == 'user')
        return turns, self.images[:count]

    @property
    def _last(self) -> int:
        return max(n for n, m in enumerate(self.messages) if m['role'] == 'assistant' and m.get('loss', True))


def answers_of(raw: Mapping[str, Any]) -> list[str]:
    """The texts of a record's ``answers``, of which each may be a text or, as in VQA's files, ``{'answer': text}``.

    >>> answers_of({'answers': [{'answer': 'race'}, 'ride', None]})
    ['race', 'ride']
    """
    given = raw.get('answers')
    texts = [a.get('answer') if isinstance(a, Mapping) else a for a in given] if isinstance(given, list) else []
    return [str(text) for text in texts if text is not None]


@dataclass(frozen=True, slots=True)
class _Format:
    read: Reader
    keys: frozenset[str]
    turns: tuple[str, ...]


_FORMATS: dict[str, _Format] = {}


def register_format(name: str, keys: set[str] | None = None, turns: tuple[str, ...] = ()) -> Callable[[Reader], Reader]:
    """Add a format.

    Args:
        name: what ``format=`` calls it.
        keys: records that hold all of these are read by it; without keys it must be asked for by name.
        turns: the key of the list of turns, then the keys of a turn: other keys are then looked at
            (:mod:`mmft.data.records.record_keys`). Without it, which keys matter is left to the reader.
    """

    def add(read: Reader) -> Reader:
        _FORMATS[name] = _Format(read, frozenset(keys or ()), turns)
        return read

    return add


def format_names() -> list[str]:
    """The names that ``format=`` takes."""
    return ['auto', *_FORMATS]


def parse_record(
    raw: dict[str, Any],
    format: str = 'auto',
    conversations: str = 'llava',
    ignore_keys: Collection[str] = (),
    template: ChatTemplate | None = None,
) -> Record:
    """Read and check one record.

    Args:
        raw: the JSON object.
        format: ``auto`` or one of :func:`format_names`.
        conversations: the format that ``auto`` takes for records with LLaVA's keys, which InternVL's share.
        ignore_keys: keys, at any depth, that say nothing about what is learnt.
        template: what the record will be written with, if that is known: some take roles in any order.

    Raises:
        ConfigError: ``format`` is unknown.
        DataError: the record breaks its format, or holds keys that change what it means and are not read (without
            file and line: add them with ``.at``).

    >>> parse_record({'conversations': [{'from': 'human', 'value': 'Hi'}, {'from': 'gpt', 'value': 'Hello'}]}).answer
    'Hello'
    """
    if format not in format_names():
        raise ConfigError(f'no annotation format is named {format!r}', expected=f'one of {format_names()}')
    if format == 'auto':
        format = _detect(raw)
        format = conversations if format == 'llava' else format
    chosen = _FORMATS[format]
    unread = unread_keys(raw, chosen.turns[0], chosen.turns[1:], ignore_keys) if chosen.turns else ()
    messages, images = chosen.read(raw)
    check_conversation(messages, template)
    check_placeholders(messages, len(images))
    if not images and (named := [key for key in unread if key.endswith(NAMES_PICTURES)]):
        raise DataError(
            f'a record without pictures, and with {named[0]}',
            expected='pictures under the key `image` or `images`',
            fix='rename the key; or ignore_keys=[...] of the dataset, where they are not to be seen',
        )
    unread += unread_marks(messages) if chosen.turns else ()
    return Record(messages, images, raw, {'id': raw['id']} if 'id' in raw else {}, unread)


def _detect(raw: dict[str, Any]) -> str:
    found = [name for name, f in _FORMATS.items() if f.keys and f.keys <= raw.keys()]
    if len(found) == 1:
        return found[0]
    known = {name: sorted(f.keys) for name, f in _FORMATS.items() if f.keys}
    other = next((name for keys, name in _UNSUPPORTED.items() if set(keys.split()) <= raw.keys()), '')
    kind = 'more than one format' if found else f'no known format, but of {other}' if other else 'no known format'
    raise DataError(
        f'the keys {clipped(sorted(raw))} are those of {kind}',
        expected=' or '.join(f'{keys} ({name})' for name, keys in known.items()),
        fix='write each record as `messages` (docs/data.md has the format)' if other and not found
        else 'rename the keys, or name the format with `format=`',
    )  # fmt: skip


_UNSUPPORTED = {
    'query response': "ms-swift's query and response",
    'query': "ms-swift's query and response",
    'instruction output': 'instruction, input and output (Alpaca, LLaMA-Factory)',
    'prompt chosen rejected': 'preference pairs (DPO)',
    'prompt completion': 'prompt and completion (TRL, OpenAI)',
    'prompt response': 'prompt and response',
    'question answer': 'a table of questions and answers',
    'conversation': "XTuner's or ms-swift's `conversation`",
    'texts': "The Cauldron's `texts`",
    'caption': 'captions',
    'text': 'plain text (pre-training)',
}


@register_format('llava', keys={'conversations'}, turns=('conversations', 'from', 'value'))
def read_llava(raw: dict[str, Any]) -> tuple[list[Message], list[str]]:
    """LLaVA: ``{"image": str | list, "conversations": [{"from": "human" | "gpt", "value": str}]}``."""
    return read_turns(raw, 'conversations', 'from', 'value', read_text)


@register_format('internvl', turns=('conversations', 'from', 'value'))
def read_internvl(raw: dict[str, Any]) -> tuple[list[Message], list[str]]:
    """InternVL: LLaVA's keys, and one picture without a placeholder belongs in front of the first question.

    The rule is InternVL's own (internvl_chat/internvl/train/internvl_chat_finetune.py, ``multi_modal_get_item``).
    """
    messages, images = read_llava(raw)
    first = next((m for m in messages if m['role'] == 'user'), None)
    if len(images) == 1 and first is not None and not any(IMAGE_PLACEHOLDER in m['content'] for m in messages):
        first['content'] = f'{IMAGE_PLACEHOLDER}\n{first["content"]}'
    return messages, images


@register_format('messages', keys={'messages'}, turns=('messages', 'role', 'content'))
def read_messages(raw: dict[str, Any]) -> tuple[list[Message], list[str]]:
    """HF: ``{"messages": [{"role", "content": str | [{"type": "text" | "image", ...}]}], "images": [...]}``.

    A content part of type ``image`` brings its own path (``image``, ``path`` or ``url``) or takes the next of
    ``images``; not both in one record.
    """
    return read_turns(raw, 'messages', 'role', 'content', read_content)
