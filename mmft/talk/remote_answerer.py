"""``RemoteAnswerer``: a model on any server that speaks OpenAI's chat completions (LMDeploy, transformers, vLLM...)."""

from __future__ import annotations

import base64
import io
import ipaddress
import json
import os
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from http.client import HTTPException, HTTPResponse
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from mmft.data.pictures.loading import load_image
from mmft.data.pictures.portable import portable
from mmft.data.pictures.transparency import WHITE, as_colour
from mmft.data.prompt import to_parts
from mmft.errors import ConfigError, ServerError
from mmft.structures import Message
from mmft.talk.answerer import Answerer, Picture
from mmft.words import count_of

__all__ = ['RemoteAnswerer', 'data_url', 'is_loopback']


class RemoteAnswerer(Answerer):
    """Answers of a server.

    Args:
        url: its address, with or without ``/v1``.
        api_key: sent as a bearer token.
        model: None: the only model that the server has.
        timeout: seconds that it may be silent.

    Raises:
        ConfigError: the server has several models and none was named, or not the one that was.
        ServerError: it does not answer, or not as an OpenAI-compatible server would.
    """

    parallel = True

    def __init__(self, url: str, api_key: str | None = None, model: str | None = None, timeout: float = 600.0) -> None:
        self.url, self._timeout = _base_url(url), timeout
        self._headers = {'Content-Type': 'application/json', 'User-Agent': 'mmft'}
        if api_key:
            self._headers['Authorization'] = f'Bearer {api_key}'
        handlers: list[Any] = [_NoRedirect]
        if is_loopback(self.url):
            handlers.append(urllib.request.ProxyHandler({}))  # no proxy reaches this machine's own loopback
        self._opener = urllib.request.build_opener(*handlers)
        self.model = model or self._only_model()
        self.name = f'{self.model.rstrip("/").rsplit("/", 1)[-1]} @ {urlsplit(self.url).netloc.rsplit("@", 1)[-1]}'

    def models(self) -> list[str]:
        """The names of the server's models."""
        with self._open('/models', timeout=min(self._timeout, 30)) as response:
            listed = self._json(response)
        try:
            return [str(entry['id']) for entry in listed['data']]
        except (KeyError, TypeError) as error:
            raise self._unexpected(listed) from error

    def check(self) -> None:
        """Raise ``ServerError`` if nothing answers at the address, or not with this key; nothing is asked."""
        try:
            self.models()
        except ServerError as error:
            cause = error.__cause__
            if not isinstance(cause, urllib.error.HTTPError) or cause.code in (401, 403):
                raise  # else it is there, and has no list: that is why its model was named

    @cached_property
    def _background(self) -> Sequence[int] | None:
        """On which its model sees transparent pictures: ``mmft serve`` lists it; white for other servers."""
        try:
            with self._open('/models', timeout=min(self._timeout, 30)) as response:
                listed = self._json(response)
            card = next(card for card in listed['data'] if card['id'] == self.model)
            return as_colour(card.get('background', WHITE))
        except (ServerError, ConfigError, KeyError, TypeError, AttributeError, StopIteration):
            return WHITE

    def _only_model(self) -> str:
        name_it = 'name it with --model (model=...)'
        try:
            found = self.models()
        except ServerError as error:
            if isinstance(error.__cause__, urllib.error.HTTPError) and error.__cause__.code not in (401, 403, 429):
                raise ServerError(f'{error.what}, asked for its models', fix=name_it) from error
            raise
        if len(found) != 1:
            raise ConfigError(
                f'{self.url} has {count_of(len(found), "model")}{": " if found else ""}{", ".join(found[:20])}',
                expected='one, or the name of one of them',
                fix=name_it,
            )
        return found[0]

    def _pieces(
        self, messages: list[Message], images: list[Picture], settings: Mapping[str, Any], stop: threading.Event
    ) -> Iterator[str]:
        background = self._background if images else WHITE
        request = {
            'model': self.model,
            'messages': to_parts(messages, [data_url(image, background) for image in images]),
            'stream': True,
            'max_tokens': settings['max_new_tokens'],
            'temperature': settings['temperature'],
            'top_p': settings['top_p'],
        }
        if settings['seed'] is not None:
            request['seed'] = settings['seed']
        with self._open('/chat/completions', request) as response:
            if 'event-stream' not in response.headers.get('Content-Type', ''):  # it does not stream
                yield self._content(self._json(response), 'message')
                return
            for event in self._events(response):
                yield self._content(event, 'delta')

    def _events(self, response: HTTPResponse) -> Iterator[Any]:
        """The JSON of each server-sent event, until the one that says [DONE]."""
        finished = False
        try:
            for line in response:
                name, _, data = line.decode('utf-8', 'replace').partition(':')
                if name != 'data':
                    continue
                if data.strip() == '[DONE]':
                    return
                event = json.loads(data)
                if isinstance(event, dict) and event.get('error'):
                    raise ServerError(f'{self.url} stopped in mid-answer: {_reason(event)}')
                choices = event.get('choices') if isinstance(event, dict) else None
                finished = finished or bool(choices and choices[0].get('finish_reason'))
                yield event
        except (OSError, HTTPException) as error:
            raise self._gone(error) from error
        except (ValueError, AttributeError) as error:
            raise self._unexpected(line) from error
        if not finished:
            raise ServerError(
                f'{self.url} closed the connection in mid-answer', fix='look at the log of the server, and ask again'
            )

    def _content(self, event: Any, key: str) -> str:
        """The text in a completion (``message``) or in a piece of one (``delta``)."""
        try:
            choices = event['choices']  # empty in the last event of some servers, which counts tokens
            return (choices[0][key].get('content') or '') if choices else ''
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise self._unexpected(event) from error

    def _open(self, path: str, body: Mapping[str, Any] | None = None, timeout: float | None = None) -> HTTPResponse:
        data = None if body is None else json.dumps(body).encode()
        try:
            request = urllib.request.Request(self.url + path, data, self._headers)
            return self._opener.open(request, timeout=timeout or self._timeout)
        except urllib.error.HTTPError as error:
            raise self._refused(error) from error
        except (OSError, HTTPException, ValueError) as error:
            raise self._gone(error) from error

    def _json(self, response: HTTPResponse) -> Any:
        try:
            text = response.read()
        except (OSError, HTTPException) as error:
            raise self._gone(error) from error
        try:
            return json.loads(text)
        except ValueError as error:
            raise self._unexpected(text) from error

    def _refused(self, error: urllib.error.HTTPError) -> ServerError:
        try:
            reason = _reason(json.loads(error.read()))
        except (OSError, HTTPException, ValueError):
            reason = str(error.reason)
        fixes = {
            401: 'give the key of the server with --api-key (api_key=...)',
            403: 'give the key of the server with --api-key (api_key=...)',
            404: 'look at the address and at the name of the model',
            429: 'ask again later, or fewer questions at a time',
        }
        return ServerError(f'{self.url} answers {error.code}: {reason}', fix=fixes.get(error.code, ''))

    def _gone(self, error: Exception) -> ServerError:
        reason = getattr(error, 'reason', error)
        if isinstance(reason, TimeoutError):
            return ServerError(f'{self.url} was silent for too long', fix='wait longer, or ask for less')
        return ServerError(
            f'{self.url} does not answer: {str(reason) or type(reason).__name__}',
            expected='an OpenAI-compatible server at this address',
            fix='start it (mmft serve DIR), or correct the address',
        )

    def _unexpected(self, what: Any) -> ServerError:
        return ServerError(
            f'{self.url} answers {_short(what)}',
            expected="OpenAI's chat completions",
            fix='look at the address: it ends with /v1 as a rule',
        )


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected question would carry its key to another place."""

    def redirect_request(self, *_: Any) -> None:
        return None


def data_url(image: Picture, background: Sequence[int] | None = WHITE) -> str:
    """The picture as a data URL. What servers may read in another way than ``load_image`` becomes upright and plain.

    Args:
        background: as of ``load_image``.

    Raises:
        DataError: no picture, or a damaged one.
    """
    if isinstance(image, (str, os.PathLike)):
        kind, data, _ = portable(image, background)
    else:
        buffer = io.BytesIO()
        load_image(image, background=background).save(buffer, 'PNG', compress_level=1)
        kind, data = 'png', buffer.getvalue()
    return f'data:image/{kind};base64,{base64.b64encode(data).decode()}'


def is_loopback(url: str) -> bool:
    """Whether an address is this machine's own.

    >>> [is_loopback(url) for url in ('http://127.0.0.1:8000/v1', 'http://[::1]', 'http://127.0.0.1.example.com')]
    [True, True, False]
    """
    try:
        host = urlsplit(url).hostname or ''
        return host == 'localhost' or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, or no address at all
        return False


def _base_url(url: str) -> str:
    parts = urlsplit(url)
    if not parts.hostname:
        raise ConfigError(f'the address {url!r}', expected='such as http://127.0.0.1:23333')
    path = re.sub(r'/(chat/completions|models)?/?$', '', parts.path)
    return urlunsplit((parts.scheme.lower(), parts.netloc, path or '/v1', '', ''))


def _reason(body: Any) -> str:
    """What an error body says: OpenAI's, FastAPI's, or whatever it is."""
    for key in ('error', 'detail', 'message'):
        if isinstance(body, dict) and body.get(key):
            body = body[key]
    return _short(body)


def _short(value: Any) -> str:
    text = value.decode('utf-8', 'replace') if isinstance(value, bytes) else str(value)
    text = ' '.join(text.split())
    return text if len(text) <= 300 else text[:297] + '...'
