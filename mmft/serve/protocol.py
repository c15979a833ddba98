"""OpenAI's chat completions as the gateway speaks them: requests checked, errors worded.

Source: platform.openai.com/docs/api-reference/chat. A field that would change the answer and that no backend follows is
refused; one that would not (``user``, ``metadata``, ...) is let pass.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ['ApiError', 'ChatRequest', 'parse_request']

_KINDS = {401: 'authentication_error', 404: 'not_found_error', 429: 'overloaded_error'}


class ApiError(Exception):
    """An answer that is an error.

    Args:
        status: of HTTP.
        message: what came, what was expected and what to do, in a sentence or two.
        code: a word for programs.
        param: the field at fault.
        retry_after: seconds after which the same request may succeed.
    """

    def __init__(
        self, status: int, message: str, code: str | None = None, param: str | None = None, retry_after: int = 0
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = {'retry-after': str(retry_after)} if retry_after else {}
        if status == 401:
            self.headers['www-authenticate'] = 'Bearer'
        if status == 408:
            self.headers['connection'] = 'close'  # else the rest may go on dripping in

    @property
    def body(self) -> dict[str, Any]:
        """As OpenAI words it."""
        kind = _KINDS.get(self.status, 'invalid_request_error' if self.status < 500 else 'server_error')
        return {'error': {'message': self.message, 'type': kind, 'param': self.param, 'code': self.code}}


@dataclass
class ChatRequest:
    """A request that has been looked over.

    Attributes:
        messages: roles ``system``, ``user`` and ``assistant``. ``content`` is text, or, for a question with pictures,
            a list of ``{'type': 'text', 'text'}`` and ``{'type': 'image_url', 'image_url': {'url'}}``.
        max_tokens: of the answer; None: what the server takes by default.
        sampling: ``temperature``, ``top_p``, ``top_k``, ``min_p``, ``repetition_penalty``, ``seed``: those given.
        extra: fields that only LMDeploy follows.
        prompt_tokens: of the conversation, once they are counted.
    """

    messages: list[dict[str, Any]]
    stream: bool = False
    include_usage: bool = False
    max_tokens: int | None = None
    sampling: dict[str, Any] = field(default_factory=dict)
    stop: tuple[str, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)
    prompt_tokens: int = 0

    @property
    def pictures(self) -> list[dict[str, Any]]:
        """The picture parts of all messages, in order; their ``url`` may be set."""
        return [
            part['image_url']
            for message in self.messages
            if isinstance(message['content'], list)
            for part in message['content']
            if part['type'] == 'image_url'
        ]


_NUMBERS: dict[str, tuple[type, float, float]] = {
    'temperature': (float, 0.0, 2.0),
    'top_p': (float, 0.0, 1.0),
    'min_p': (float, 0.0, 1.0),
    'top_k': (int, 0, 1e9),
    'repetition_penalty': (float, 0.0, 10.0),
    'seed': (int, -(2**63), 2**63),
}
_LENGTHS = ('max_completion_tokens', 'max_tokens')
_REFUSED = {
    'n': (None, 1),
    'logprobs': (None, False),
    'top_logprobs': (None, 0),
    'tools': (None, []),
    'functions': (None, []),
    'audio': (None,),
    'modalities': (None, ['text']),
    'prediction': (None,),
    'web_search_options': (None,),
    'presence_penalty': (None, 0),
    'frequency_penalty': (None, 0),
}
"""Fields that no backend follows -> the values under which nothing is lost."""
_ADVICE = {'n': 'ask several times', 'presence_penalty': 'use repetition_penalty',
           'frequency_penalty': 'use repetition_penalty'}  # fmt: skip
_MOST_FIELDS, _LONGEST_NAME = 64, 64
_OTHERS = ('model', 'messages', 'stream', 'stream_options', 'stop', 'response_format', 'logit_bias', 'user', 'metadata',
           'store', 'service_tier', 'tool_choice', 'parallel_tool_calls', 'reasoning_effort', 'verbosity',
           'prompt_cache_key', 'safety_identifier', 'function_call')  # fmt: skip


def parse_request(body: Any, names: tuple[str, ...], extra: tuple[str, ...] = ()) -> ChatRequest:
    """Check the body of a request.

    Args:
        body: the JSON.
        names: what the model may be called.
        extra: which of ``response_format`` and ``logit_bias`` the backend follows.

    Raises:
        ApiError: says which field is wrong, and how.
    """
    if not isinstance(body, dict):
        raise ApiError(400, f'The body is a JSON {type(body).__name__}; expected an object.', 'invalid_json')
    _check_names(body)
    if body.get('model') is not None and body['model'] not in names:
        message = f'The model {_shown(body["model"])} does not exist; this server has {names[0]!r}.'
        raise ApiError(404, message, 'model_not_found', 'model')
    stream = _flag(body.get('stream'), 'stream')
    options = body.get('stream_options') or {}
    if not isinstance(options, dict):
        raise ApiError(400, 'stream_options must be an object.', param='stream_options')
    request = ChatRequest(
        _messages(body.get('messages')),
        stream,
        stream and _flag(options.get('include_usage'), 'stream_options.include_usage'),
        next((_number(body, name, int, 1, 1e9) for name in _LENGTHS if body.get(name) is not None), None),
        {name: _number(body, name, *rule) for name, rule in _NUMBERS.items() if body.get(name) is not None},
        _stop(body.get('stop')),
    )
    if request.sampling.get('top_p') == 0:
        raise ApiError(400, 'top_p is 0; expected more than 0 and at most 1.', param='top_p')
    for name in ('response_format', 'logit_bias'):
        value = body.get(name)
        if not value or value == {'type': 'text'}:
            continue
        if name not in extra:
            raise ApiError(400, f'{name} is not followed by the backend of this server.', 'unsupported', name)
        request.extra[name] = _bias(value) if name == 'logit_bias' else value
    return request


def _check_names(body: Mapping[str, Any]) -> None:
    if len(body) > _MOST_FIELDS:  # each unknown name costs a search for what it may mean
        raise ApiError(400, f'{len(body):,} fields; expected at most {_MOST_FIELDS}.', 'invalid_value')
    for name, harmless in _REFUSED.items():
        if name in body and not any(_same(body[name], value) for value in harmless):
            advice = f' {_ADVICE[name].capitalize()}.' if name in _ADVICE else ''
            message = f'{name}={json.dumps(body[name])[:80]} is not supported by this server.{advice}'
            raise ApiError(400, message, 'unsupported', name)
    known = (*_NUMBERS, *_LENGTHS, *_REFUSED, *_OTHERS)
    for name in body:
        foreign = name not in known and len(name) <= _LONGEST_NAME
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.85) if foreign else []
        if near:  # anything else may be meant for another server and is let pass
            raise ApiError(400, f'Unknown field {name!r}: did you mean {near[0]!r}?', 'unknown_parameter', name)


def _shown(value: Any) -> str:
    return f'{value!r:.80}'


def _same(one: Any, other: Any) -> bool:
    return one == other and isinstance(one, bool) == isinstance(other, bool)  # True == 1


def _flag(value: Any, name: str) -> bool:
    if value is not None and not isinstance(value, bool):
        raise ApiError(400, f'{name}={_shown(value)}; expected true or false.', param=name)
    return bool(value)


def _number(body: Mapping[str, Any], name: str, kind: type, low: float, high: float) -> Any:
    value = body[name]
    fits = _is_number(value) and (kind is float or isinstance(value, int))
    if not fits or not low <= value <= high:
        wanted = f'{"a whole number" if kind is int else "a number"} from {low:g} to {high:g}'
        raise ApiError(400, f'{name}={json.dumps(value)[:80]}; expected {wanted}.', 'invalid_value', name)
    return value


def _bias(value: Any) -> dict[str, float]:
    whole = isinstance(value, dict) and all(key.isascii() and key.isdigit() for key in value)
    if not whole or not all(_is_number(bias) and -100 <= bias <= 100 for bias in value.values()):
        message = 'logit_bias must be an object of token ids with numbers from -100 to 100.'
        raise ApiError(400, message, 'invalid_value', 'logit_bias')
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _stop(value: Any) -> tuple[str, ...]:
    words = [value] if isinstance(value, str) else value or []
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words) or len(words) > 16:
        raise ApiError(400, 'stop must be a string or a list of at most 16 strings.', 'invalid_value', 'stop')
    return tuple(word for word in words if word)


def _messages(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not value:
        raise ApiError(400, 'messages must be a list of at least one message.', 'invalid_value', 'messages')
    messages = [_message(item, f'messages[{i}]') for i, item in enumerate(value)]
    if messages[-1]['role'] != 'user':
        what = f'The last message has the role {messages[-1]["role"]!r}; expected a question of the user.'
        raise ApiError(400, what, 'invalid_value', f'messages[{len(messages) - 1}].role')
    return messages


def _message(item: Any, where: str) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise ApiError(400, f'{where} must be an object with role and content.', 'invalid_value', where)
    role = 'system' if item.get('role') == 'developer' else item.get('role')
    if role not in ('system', 'user', 'assistant'):
        what = f"{where} has the role {_shown(role)}; expected 'system', 'user' or 'assistant'."
        raise ApiError(400, what, 'invalid_value', f'{where}.role')
    content = item.get('content')
    if isinstance(content, str) or (content is None and role == 'assistant'):
        return {'role': role, 'content': _text(content or '', f'{where}.content')}
    if not isinstance(content, list) or not content:
        what = f'{where}.content must be text or a list of parts.'
        raise ApiError(400, what, 'invalid_value', f'{where}.content')
    parts = [_part(part, f'{where}.content[{i}]') for i, part in enumerate(content)]
    if all(part['type'] == 'text' for part in parts):
        return {'role': role, 'content': ''.join(part['text'] for part in parts)}
    if role != 'user':
        raise ApiError(400, f'{where} has a picture; only messages of the user can.', 'invalid_value', where)
    return {'role': role, 'content': _joined(parts)}


def _part(part: Any, where: str) -> dict[str, Any]:
    kind = part.get('type') if isinstance(part, dict) else None
    if kind == 'text' and isinstance(part.get('text'), str):
        return {'type': 'text', 'text': _text(part['text'], where)}
    if kind == 'image_url':
        url = part.get('image_url')
        url = url.get('url') if isinstance(url, dict) else url
        if isinstance(url, str) and url:
            return {'type': 'image_url', 'image_url': {'url': url}}
    expected = "{'type': 'text', 'text': ...} or {'type': 'image_url', 'image_url': {'url': ...}}"
    message = f'{where} is of type {_shown(kind)} or incomplete; expected {expected}.'
    raise ApiError(400, message, 'invalid_value', where)


def _text(text: str, where: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ApiError(400, f'{where} is not Unicode text: {error.reason}.', 'invalid_value', where) from None
    return text


def _joined(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Texts that follow each other as one."""
    joined: list[dict[str, Any]] = []
    for part in parts:
        if joined and part['type'] == joined[-1]['type'] == 'text':
            joined[-1] = {'type': 'text', 'text': joined[-1]['text'] + part['text']}
        else:
            joined.append(part)
    return joined
