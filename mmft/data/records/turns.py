"""The turns of a record: roles, texts, the pictures that they bring along, and whether an answer is trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mmft.data.records.marks import has_placeholder, place_pictures
from mmft.data.records.record_keys import NOTHING, PICTURE_KEYS, SYSTEM_KEYS
from mmft.errors import DataError
from mmft.structures import IMAGE_PLACEHOLDER, Message
from mmft.words import clipped, count_of

__all__ = ['read_content', 'read_text', 'read_turns']

_ROLES = {
    'system': 'system',
    'user': 'user',
    'human': 'user',
    'assistant': 'assistant',
    'gpt': 'assistant',
}


def read_turns(
    raw: dict[str, Any], turns_key: str, role_key: str, text_key: str, text: Callable[[Any, str, list[str]], str]
) -> tuple[list[Message], list[str]]:
    """The messages of a record, a system message that stands beside the turns in front, and all its pictures.

    Args:
        raw: the record.
        turns_key, role_key, text_key: of the list of turns, and of the role and the content of one.
        text: makes a text of (content, where it stands), and adds the pictures that it brings along to the list.

    Raises:
        DataError: invalid turns, texts or pictures.
    """
    in_turns: list[str] = []
    messages = _turns(raw.get(turns_key), turns_key, role_key, text_key, lambda *args: text(*args, in_turns), in_turns)
    listed = _images(raw)
    if in_turns and listed:
        raise DataError(
            f'{count_of(len(in_turns), "picture")} in the turns and {len(listed)} more beside them',
            expected='picture paths in one of the two places',
            fix='leave the path out of the turns, or leave `images` out',
        )
    return place_pictures(_with_system(raw, messages), in_turns or listed)


def _with_system(raw: dict[str, Any], messages: list[Message]) -> list[Message]:
    given = {key: read_text(raw[key], f'`{key}`', []) for key in SYSTEM_KEYS if raw.get(key) not in NOTHING}
    texts = set(given.values()) | {turn['content'] for turn in messages[:1] if turn['role'] == 'system'}
    if len(texts) > 1:
        raise DataError(
            f'two system messages: {", ".join(f"`{key}`" for key in given)} beside the turns, and another',
            expected='one',
            fix='take one out',
        )
    if not given or messages[0]['role'] == 'system':
        return messages
    _check_unicode(*texts, f'`{next(iter(given))}`')
    return [Message(role='system', content=texts.pop()), *messages]


def _turns(
    value: Any, key: str, role_key: str, text_key: str, text: Callable[[Any, str], str], paths: list[str]
) -> list[Message]:
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
                fix=f'correct `{role_key}` of this turn',
            )
        content = text(turn[text_key], f'turn {n}')
        _check_unicode(content, f'turn {n}')
        if pictures := _images(turn):
            paths += pictures
            if not has_placeholder(content):
                content = f'{IMAGE_PLACEHOLDER}\n' * len(pictures) + content
        messages.append(Message(role=_ROLES[role], content=content))
        if not _trained(turn, _ROLES[role], n):
            messages[-1]['loss'] = False
    return messages


def _trained(turn: dict[str, Any], role: str, n: int) -> bool:
    """Whether ``loss`` (ms-swift) and ``weight`` (OpenAI) of a turn let it be trained."""
    given = {key: turn[key] for key in ('loss', 'weight') if turn.get(key) is not None}
    for key, value in given.items():
        if not isinstance(value, (bool, int, float)) or value not in (0, 1):
            raise DataError(
                f'`{key}` of turn {n} is {_show(value)}',
                expected='true or 1 for an answer that is trained, false or 0 for one that is not',
                fix='mmft weighs all trained tokens alike: choose one of the two, or repeat_time of a set',
            )
    if role != 'assistant' and given.get('loss'):
        raise DataError(
            f'turn {n}, of the {role}, has `loss` true', expected='answers only: mmft trains no questions',
            fix='take it out',
        )  # fmt: skip
    if len({bool(value) for value in given.values()}) > 1:
        raise DataError(f'`loss` and `weight` of turn {n} contradict each other', expected='one of them')
    return role != 'assistant' or all(given.values())


def _check_unicode(text: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:  # JSON allows half a surrogate pair; tokenizers do not
        raise DataError(
            f'{where} holds {text[error.start]!r}, half of a character',
            expected='text that can be written as UTF-8',
            fix='write the text again; a tool cut it in the middle of a character',
        ) from None


def read_text(value: Any, where: str, paths: list[str]) -> str:
    """Content that is a text and nothing else; it brings no pictures along."""
    if not isinstance(value, str):
        raise DataError(f'{where} holds {_show(value)}', expected='a text')
    return value


def read_content(value: Any, where: str, paths: list[str]) -> str:
    """Content as text, a newline after each picture as in ``mmft/data/prompt.py``; parts' paths go into ``paths``."""
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
            text += part['text']
        elif kind in ('image', 'image_url'):
            text += f'{IMAGE_PLACEHOLDER}\n'
            path = next((part[k] for k in ('image', 'path', 'url', 'image_url') if part.get(k)), None)
            if path is not None:
                paths.append(_image(path))
        else:
            raise DataError(
                f'{where} has a part {_show(part)}', expected='{"type": "text", "text": ...} or {"type": "image"}'
            )
    return text


def _images(level: dict[str, Any]) -> list[str]:
    """The pictures of a record or a turn."""
    given = {k: level[k] for k in PICTURE_KEYS if level.get(k) not in NOTHING}
    keys = [k for k in given if k in ('image', 'images')] or list(given)
    if not keys:
        return []
    if len(keys) > 1 and any(given[k] != given[keys[0]] for k in keys):
        raise DataError(f'both `{keys[0]}` and `{keys[1]}` are given', expected='one of them')
    value = given[keys[0]]
    return [_image(v) for v in value] if isinstance(value, list) else [_image(value)]


def _image(value: Any) -> str:
    if isinstance(value, dict):
        row, value = value, value.get('path') or value.get('url')
        if not value and row.get('bytes'):
            raise DataError(
                f'a picture stands in the record itself: {_show(row)}, as in the rows of a Parquet table',
                expected='a path',
                fix='save the bytes as a file, and name that',
            )
    if not isinstance(value, str) or not value.strip():
        raise DataError(f'a picture is given as {_show(value)}', expected='a path')
    _check_unicode(value, 'the path of a picture')
    return value


def _show(value: Any) -> str:
    try:
        return clipped(repr(value), 80)
    except RecursionError:  # nested so deep that only the JSON reader gets through
        return f'a {type(value).__name__} nested too deep'
