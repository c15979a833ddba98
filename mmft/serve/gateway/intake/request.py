"""OpenAI's chat completions as the gateway speaks them: requests checked.

Source: platform.openai.com/docs/api-reference/chat. A field that would change the answer and that no backend follows is
refused; one that would not (``user``, ``metadata``, ...) is let pass.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mmft.serve.gateway.api_error import ApiError
from mmft.serve.gateway.intake import fields
from mmft.serve.gateway.intake.messages import check_messages

__all__ = ['ChatRequest', 'parse_request']


@dataclass
class ChatRequest:
    """A request that has been checked.

    Attributes:
        messages: roles ``system``, ``user`` and ``assistant``. ``content`` is text, or, for a question with pictures,
            a list of ``{'type': 'text', 'text'}`` and ``{'type': 'image_url', 'image_url': {'url'}}``.
        max_tokens: of the answer; None: what the server takes by default.
        sampling: ``temperature``, ``top_p``, ``top_k``, ``min_p``, ``repetition_penalty``, ``seed``: those given.
        extra: ``response_format`` and ``logit_bias``, which not every backend follows.
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


def parse_request(
    body: Any, names: tuple[str, ...], extra: tuple[str, ...] = (), vocabulary: int | None = None
) -> ChatRequest:
    """Check the body of a request.

    Args:
        body: the JSON.
        names: what the model may be called.
        extra: which of ``response_format`` and ``logit_bias`` the backend follows.
        vocabulary: how many tokens the model has; None: not known.

    Raises:
        ApiError: says which field is wrong, and how.
    """
    if not isinstance(body, dict):
        raise ApiError(400, f'The body is a JSON {type(body).__name__}; expected an object.', 'invalid_json')
    fields.check_names(body)
    if body.get('model') is not None and body['model'] not in names:
        message = f'The model {fields.shown(body["model"])} does not exist; this server has {names[0]!r}.'
        raise ApiError(404, message, 'model_not_found', 'model')
    stream = fields.flag(body.get('stream'), 'stream')
    options = {} if body.get('stream_options') is None else body['stream_options']
    if not isinstance(options, dict):
        raise ApiError(400, 'stream_options must be an object.', 'invalid_value', 'stream_options')
    include_usage = fields.flag(options.get('include_usage'), 'stream_options.include_usage')
    return ChatRequest(
        check_messages(body.get('messages')),
        stream,
        stream and include_usage,
        _max_tokens(body),
        {name: fields.number(body, name) for name in fields.NUMBERS if body.get(name) is not None},
        fields.stop_words(body.get('stop')),
        _extra(body, extra, vocabulary),
    )


def _max_tokens(body: dict[str, Any]) -> int | None:
    wanted = fields.Range(int, 1, 1e9)
    given = [fields.number(body, name, wanted) for name in fields.LENGTHS if body.get(name) is not None]
    if len(set(given)) > 1:
        message = f'{fields.LENGTHS[0]}={given[0]}, but {fields.LENGTHS[1]}={given[1]}; expected one of the two.'
        raise ApiError(400, message, 'invalid_value', fields.LENGTHS[1])
    return given[0] if given else None


def _extra(body: dict[str, Any], followed: tuple[str, ...], vocabulary: int | None) -> dict[str, Any]:
    given = {name: body[name] for name in ('response_format', 'logit_bias') if not fields.is_empty(body.get(name))}
    if 'response_format' in given and (checked := fields.response_format(given.pop('response_format'))) is not None:
        given['response_format'] = checked
    if 'logit_bias' in given:
        given['logit_bias'] = fields.bias(given['logit_bias'], vocabulary)
    for name in given:
        if name not in followed:
            raise ApiError(400, f'{name} is not followed by the backend of this server.', 'unsupported', name)
    return given
