"""The messages of a request, checked: roles, texts and pictures. What cannot be handed on is refused, by its place."""

from __future__ import annotations

import itertools
from typing import Any

from mmft.serve.gateway.api_error import ApiError
from mmft.serve.gateway.intake.fields import is_empty, shown, unknown
from mmft.structures import IMAGE_PLACEHOLDER

__all__ = ['check_messages']

_ROLES = {'system': 'system', 'developer': 'system', 'user': 'user', 'assistant': 'assistant'}
_IMAGE_TOKENS = ('<IMG_CONTEXT>', '<IMAGE_TOKEN>')
"""InternVL's in a picture's place, and LMDeploy's, whose presence makes it drop the pictures of a question. Those of
other models are known to ``PromptCounter``."""
_DETAIL = ('auto', 'high')
_HARMLESS = ('cache_control',)
_PARTS = "{'type': 'text', 'text': ...} or {'type': 'image_url', 'image_url': {'url': ...}}"


def check_messages(value: Any) -> list[dict[str, Any]]:
    """Messages as ``ChatRequest`` has them.

    Raises:
        ApiError: names the message, or the part of it, that is wrong.
    """
    if not isinstance(value, list) or not value:
        raise _wrong('messages must be a list of at least one message.', 'messages')
    messages = [_message(item, f'messages[{i}]') for i, item in enumerate(value)]
    if messages[-1]['role'] != 'user':
        what = f'The last message has the role {messages[-1]["role"]!r}; expected a question of the user.'
        raise _wrong(what, f'messages[{len(messages) - 1}].role')
    return messages


def _message(item: Any, where: str) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise _wrong(f'{where} must be an object with role and content.', where)
    role = _ROLES.get(item['role']) if isinstance(item.get('role'), str) else None
    if role is None:
        raise _wrong(
            f'{where} has the role {shown(item.get("role"))}; expected one of {list(_ROLES)}.', f'{where}.role'
        )
    _check_keys(item, ('role', 'content'), where)
    content = item.get('content')
    if isinstance(content, str) or (content is None and role == 'assistant'):
        return {'role': role, 'content': _text(content or '', f'{where}.content', role)}
    if not isinstance(content, list) or not content:
        raise _wrong(f'{where}.content must be text or a list of parts.', f'{where}.content')
    parts = [_part(part, f'{where}.content[{i}]', role) for i, part in enumerate(content)]
    joined = _joined(parts, f'{where}.content', role)
    if len(joined) == 1 and joined[0]['type'] == 'text':
        return {'role': role, 'content': joined[0]['text']}
    if role != 'user':
        raise _wrong(f'{where} has a picture; only messages of the user can.', where)
    return {'role': role, 'content': joined}


def _check_keys(item: dict[str, Any], known: tuple[str, ...], where: str) -> None:
    if names := [name for name, value in item.items() if name not in (*known, *_HARMLESS) and not is_empty(value)]:
        raise unknown(names, known, where)


def _part(part: Any, where: str, role: str) -> dict[str, Any]:
    kind = part.get('type') if isinstance(part, dict) else None
    if kind == 'text' and isinstance(part.get('text'), str):
        _check_keys(part, ('type', 'text'), where)
        return {'type': 'text', 'text': _text(part['text'], where, role)}
    if kind == 'image_url':
        _check_keys(part, ('type', 'image_url'), where)
        place = part.get('image_url')
        place = {'url': place} if isinstance(place, str) else place
        if isinstance(place, dict) and isinstance(place.get('url'), str) and place['url']:
            _check_keys(place, ('url', 'detail'), f'{where}.image_url')
            if not is_empty(place.get('detail')) and place['detail'] not in _DETAIL:
                what = f'detail={shown(place["detail"])}: pictures are seen with every tile that they have in training'
                raise ApiError(
                    400, f'{where}.image_url: {what}; expected one of {list(_DETAIL)}.', 'unsupported', where
                )
            return {'type': 'image_url', 'image_url': {'url': place['url']}}
    raise _wrong(f'{where} is of type {shown(kind)} or incomplete; expected {_PARTS}.', where)


def _text(text: str, where: str, role: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _wrong(f'{where} is not Unicode text: {error.reason}.', where) from None
    for token in (IMAGE_PLACEHOLDER, *_IMAGE_TOKENS) if role == 'user' else _IMAGE_TOKENS:
        if token in text:
            what = f'{where} contains the text {token!r}, which stands for a picture.'
            raise _wrong(f'{what} Remove it; a picture is a part of its own, where it belongs: {_PARTS}.', where)
    return text


def _joined(parts: list[dict[str, Any]], where: str, role: str) -> list[dict[str, Any]]:
    """Texts that follow each other as one, in which a placeholder that was cut in two shows."""
    joined: list[dict[str, Any]] = []
    for kind, run in itertools.groupby(parts, key=lambda part: part['type']):
        if kind == 'text':
            joined.append({'type': 'text', 'text': _text(''.join(part['text'] for part in run), where, role)})
        else:
            joined += run
    return joined


def _wrong(message: str, where: str) -> ApiError:
    return ApiError(400, message, 'invalid_value', where)
