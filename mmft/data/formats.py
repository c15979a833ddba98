"""Readers: one JSON record of a known format -> the messages and picture paths that the encoder takes.

A format is one function with a decorator; it is recognised by the keys of the record, never by file names::

    @register_format('captions', keys={'caption', 'file_name'})
    def read_captions(raw):
        messages = [{'role': 'user', 'content': '<image>'}, {'role': 'assistant', 'content': raw['caption']}]
        return messages, [raw['file_name']]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mmft.errors import ConfigError, DataError
from mmft.structures import IMAGE_PLACEHOLDER, Message

__all__ = ['Record', 'format_names', 'parse_record', 'register_format']

Reader = Callable[[dict[str, Any]], tuple[list[Message], list[str]]]

_ROLES = {
    'system': 'system',
    'user': 'user',
    'human': 'user',
    'assistant': 'assistant',
    'gpt': 'assistant',
}


@dataclass(slots=True)
class Record:
    """One conversation as it stands in the annotation file, checked and in mmft's own words.

    Attributes:
        messages: alternating user and assistant turns after an optional system turn; the last one is the answer.
        images: picture paths in the order of the placeholders: as written; full ones once a dataset has read it.
        raw: the JSON object.
        meta: ``file``, ``line``, ``index`` and, where the record has one, ``id``.
    """

    messages: list[Message]
    images: list[str]
    raw: dict[str, Any]
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def answer(self) -> str:
        """The last assistant turn."""
        return self.messages[-1]['content']


@dataclass(frozen=True, slots=True)
class _Format:
    read: Reader
    keys: frozenset[str]


_FORMATS: dict[str, _Format] = {}


def register_format(name: str, keys: set[str] | None = None) -> Callable[[Reader], Reader]:
    """Add a format. Records that hold all ``keys`` are read by it; without keys it must be asked for by name."""

    def add(read: Reader) -> Reader:
        _FORMATS[name] = _Format(read, frozenset(keys or ()))
        return read

    return add


def format_names() -> list[str]:
    """The names that ``format=`` takes."""
    return ['auto', *_FORMATS]


def parse_record(raw: dict[str, Any], format: str = 'auto', conversations: str = 'llava') -> Record:
    """Read and check one record.

    Args:
        raw: the JSON object.
        format: ``auto`` or one of :func:`format_names`.
        conversations: the format that ``auto`` takes for records with LLaVA's keys, which InternVL's share.

    Raises:
        ConfigError: ``format`` is unknown.
        DataError: the record breaks its format (without file and line: add them with ``.at``).

    >>> parse_record({'conversations': [{'from': 'human', 'value': 'Hi'}, {'from': 'gpt', 'value': 'Hello'}]}).answer
    'Hello'
    """
    if format not in format_names():
        raise ConfigError(f'no annotation format is named {format!r}', expected=f'one of {format_names()}')
    if format == 'auto':
        format = _detect(raw)
        format = conversations if format == 'llava' else format
    chosen = _FORMATS[format]
    messages, images = chosen.read(raw)
    _check_turns(messages)
    _check_placeholders(messages, images)
    return Record(messages, images, raw, {'id': raw['id']} if 'id' in raw else {})


def _detect(raw: dict[str, Any]) -> str:
    found = [name for name, f in _FORMATS.items() if f.keys and f.keys <= raw.keys()]
    if len(found) == 1:
        return found[0]
    known = {name: sorted(f.keys) for name, f in _FORMATS.items() if f.keys}
    raise DataError(
        f'the keys {sorted(raw)} are those of {"no known format" if not found else "more than one format"}',
        expected=' or '.join(f'{keys} ({name})' for name, keys in known.items()),
        fix='rename the keys, or name the format with `format=`',
    )


@register_format('llava', keys={'conversations'})
def read_llava(raw: dict[str, Any]) -> tuple[list[Message], list[str]]:
    """LLaVA: ``{"image": str | list, "conversations": [{"from": "human" | "gpt", "value": str}]}``."""
    turns = raw.get('conversations')
    return _turns(turns, 'conversations', 'from', 'value', _text), _images(raw, 'image', 'images')


@register_format('internvl')
def read_internvl(raw: dict[str, Any]) -> tuple[list[Message], list[str]]:
    """InternVL: LLaVA's keys, and one picture without a placeholder belongs in front of the first question.

    The rule is InternVL's own (internvl_chat/internvl/train/internvl_chat_finetune.py, ``multi_modal_get_item``).
    """
    messages, images = read_llava(raw)
    first = next((m for m in messages if m['role'] == 'user'), None)
    if len(images) == 1 and first is not None and not any(IMAGE_PLACEHOLDER in m['content'] for m in messages):
        first['content'] = f'{IMAGE_PLACEHOLDER}\n{first["content"]}'
    return messages, images


@register_format('messages', keys={'messages'})
def read_messages(raw: dict[str, Any]) -> tuple[list[Message], list[str]]:
    """HF: ``{"messages": [{"role", "content": str | [{"type": "text" | "image", ...}]}], "images": [...]}``.

    A content part of type ``image`` brings its own path (``image``, ``path`` or ``url``) or takes the next of
    ``images``; not both in one record.
    """
    own: list[str] = []
    messages = _turns(raw.get('messages'), 'messages', 'role', 'content', lambda v, where: _parts(v, where, own))
    listed = _images(raw, 'images', 'image')
    if own and listed:
        raise DataError(
            f'{len(own)} pictures in the content parts and {len(listed)} more in `images`',
            expected='picture paths in one of the two places',
            fix='leave the path out of the parts, or leave `images` out',
        )
    return messages, own or listed


def _turns(value: Any, key: str, role_key: str, text_key: str, text: Callable[[Any, str], str]) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise DataError(f'`{key}` is {_show(value)}', expected='a list of turns that is not empty')
    messages: list[Message] = []
    for n, turn in enumerate(value, 1):
        if not isinstance(turn, dict) or role_key not in turn or text_key not in turn:
            raise DataError(
                f'turn {n} of `{key}` is {_show(turn)}', expected=f'an object with `{role_key}` and `{text_key}`'
            )
        role = turn[role_key]
        if not isinstance(role, str) or role not in _ROLES:
            raise DataError(
                f'turn {n} has the role {_show(role)}',
                expected=f'one of {sorted(_ROLES)}',
                fix=f'mend `{role_key}` of this turn',
            )
        content = text(turn[text_key], f'turn {n}')
        _check_unicode(content, f'turn {n}')
        messages.append(Message(role=_ROLES[role], content=content))
    return messages


def _check_unicode(text: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:  # JSON allows half a surrogate pair; tokenizers do not
        raise DataError(
            f'{where} holds {text[error.start]!r}, half of a character',
            expected='text that can be written as UTF-8',
            fix='write the text again; a tool cut it in the middle of a character',
        ) from None


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise DataError(f'{where} holds {_show(value)}', expected='a text')
    return value


def _parts(value: Any, where: str, paths: list[str]) -> str:
    """Content as text, a picture as a line of its own; the paths that parts bring are added to ``paths``."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise DataError(f'{where} holds {_show(value)}', expected='a text, or a list of text and image parts')
    text = ''
    for part in value:
        kind = part.get('type') if isinstance(part, dict) else None
        if kind == 'text' and isinstance(part.get('text'), str):
            if IMAGE_PLACEHOLDER in part['text']:
                raise DataError(
                    f'{where} writes {IMAGE_PLACEHOLDER} inside a text part',
                    expected='pictures as parts of their own',
                    fix='use {"type": "image"} instead',
                )
            text += ('\n' if text.endswith(IMAGE_PLACEHOLDER) else '') + part['text']
        elif kind in ('image', 'image_url'):
            text += ('\n' if text and not text.endswith('\n') else '') + IMAGE_PLACEHOLDER
            path = next((part[k] for k in ('image', 'path', 'url', 'image_url') if part.get(k)), None)
            if path is not None:
                paths.append(_image(path))
        else:
            raise DataError(
                f'{where} has a part {_show(part)}', expected='{"type": "text", "text": ...} or {"type": "image"}'
            )
    return text


def _images(raw: dict[str, Any], *keys: str) -> list[str]:
    given = [k for k in keys if raw.get(k) not in (None, '', [])]
    if len(given) > 1:
        raise DataError(f'both `{given[0]}` and `{given[1]}` are given', expected='one of them')
    if not given:
        return []
    value = raw[given[0]]
    return [_image(v) for v in value] if isinstance(value, list) else [_image(value)]


def _image(value: Any) -> str:
    if isinstance(value, dict):
        value = value.get('path') or value.get('url')
    if not isinstance(value, str) or not value.strip():
        raise DataError(f'a picture is given as {_show(value)}', expected='a path')
    return value


def _check_turns(messages: list[Message]) -> None:
    turns = messages[1:] if messages[0]['role'] == 'system' else messages
    wanted = 'user'
    for n, message in enumerate(turns, 1 + len(messages) - len(turns)):
        if message['role'] != wanted:
            raise DataError(
                f'turn {n} is of the {message["role"]}, not of the {wanted}',
                expected='an optional system turn, then user and assistant (human and gpt) in turns',
                fix='join turns of one speaker, or remove the surplus one',
            )
        if message['role'] == 'assistant' and not message['content'].strip():
            raise DataError(f'turn {n}, an answer, is empty', expected='a text', fix='write it, or remove the turns')
        wanted = 'assistant' if wanted == 'user' else 'user'
    if not turns or wanted == 'assistant':
        raise DataError(
            'the last question has no answer', expected='a last turn of the assistant (gpt)', fix='add the answer'
        )


def _check_placeholders(messages: list[Message], images: list[str]) -> None:
    wrong = next((n for n, m in enumerate(messages, 1) if m['role'] != 'user' and IMAGE_PLACEHOLDER in m['content']), 0)
    if wrong:
        raise DataError(
            f'turn {wrong}, of the {messages[wrong - 1]["role"]}, holds {IMAGE_PLACEHOLDER}',
            expected='pictures in user turns only',
            fix=f'move {IMAGE_PLACEHOLDER} to the question',
        )
    count = sum(m['content'].count(IMAGE_PLACEHOLDER) for m in messages)
    if count != len(images):
        fewer = f'add {IMAGE_PLACEHOLDER} where each picture belongs, or remove the surplus pictures'
        more = f'add the missing pictures, or remove the surplus {IMAGE_PLACEHOLDER}'
        raise DataError(
            f'{count} {IMAGE_PLACEHOLDER} placeholders for {len(images)} pictures',
            expected=f'one {IMAGE_PLACEHOLDER} for each picture',
            fix=fewer if count < len(images) else more,
        )


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + '...'
