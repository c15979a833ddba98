"""The way in: requests are read, checked and weighed here before a backend is asked.

All that strangers can make large is bounded: the bytes of a body and the seconds it may take, the number of things in
its JSON, the bytes and pixels of a picture, and, over all requests, the memory that they hold (``RequestMemory``).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any

from starlette.requests import Request

from mmft.errors import DataError
from mmft.serve.gateway.api_error import ApiError
from mmft.serve.gateway.intake.body import Readers
from mmft.serve.gateway.intake.pictures import PictureLoader, is_web_address
from mmft.serve.gateway.intake.prompt_count import PromptCounter
from mmft.serve.gateway.intake.request import ChatRequest, parse_request
from mmft.serve.gateway.settings import GatewaySettings
from mmft.words import clipped, count_of

__all__ = ['Intake', 'RequestMemory']

MOST_ITEMS = 500_000
"""Commas and brackets of a body. Each may become some hundred bytes of Python; a conversation has a few for each turn,
and one for each picture."""

COPIES = 2
"""A request is held twice: as it came and parsed, later parsed and as it goes to the backend."""


class RequestMemory:
    """What all requests hold together.

    Args:
        most: bytes.

    Attributes:
        held: bytes at this moment.
    """

    def __init__(self, most: int) -> None:
        self.most, self.held = most, 0

    @contextmanager
    def hold(self) -> Iterator[Callable[[int], None]]:
        """Gives a function that reserves bytes for a request; a negative number releases some, the end all of them.

        The function raises ``ApiError`` where there is no room.
        """
        own = 0

        def take(size: int) -> None:
            nonlocal own
            if size > 0 and self.held + size > self.most:
                message = 'Requests of too many bytes are waiting: ask again a little later.'
                raise ApiError(429, message, 'overloaded', retry_after=5)
            self.held, own = self.held + size, own + size

        try:
            yield take
        finally:
            self.held -= own


class Intake:
    """Reads requests and makes them ready for a backend.

    Args:
        extra: fields of requests that only some backends follow, see ``parse_request``.
        counter: None: the backend limits the session's length.
        threads: for everything that takes longer than a moment.
    """

    def __init__(
        self, settings: GatewaySettings, extra: tuple[str, ...], counter: PromptCounter | None,
        pictures: PictureLoader, threads: Executor,
    ) -> None:  # fmt: skip
        self.settings, self.extra, self.counter = settings, extra, counter
        self.readers = Readers(settings.patience, settings.most_reading, settings.max_held // 2, settings.max_body)
        self.pictures, self._threads = pictures, threads

    async def read(self, request: Request, take: Callable[[int], None]) -> ChatRequest:
        """The request as it came, its fields checked.

        Raises:
            ApiError: says what is wrong with it.
            ClientDisconnect: the client went before its end.
        """
        kind = request.headers.get('content-type', '').partition(';')[0].strip().lower()
        if kind != 'application/json':
            # Also: a form or a script of a foreign web page cannot send JSON to a loopback port unasked.
            raise ApiError(415, f'Content-Type is {kind or "missing"}; expected application/json.', 'not_json')
        content = await self.readers.read(request, lambda size: take(COPIES * size))
        return await self.run(self._parse, content)

    def _parse(self, content: bytearray) -> ChatRequest:
        items = sum(content.count(sign) for sign in b'{[,')
        if items > MOST_ITEMS:
            message = f'The body has {items:,} commas and brackets; expected at most {MOST_ITEMS:,}.'
            raise ApiError(400, message, 'invalid_json')
        try:
            body = json.loads(content, parse_constant=_no_number, object_pairs_hook=_unique_keys)
            request = parse_request(body, self.settings.names, self.extra, self.settings.vocabulary)
        except (ValueError, RecursionError) as error:
            raise ApiError(400, f'The body is not JSON: {clipped(error)}.', 'invalid_json') from None
        count, most = len(request.pictures), self.settings.max_pictures
        if count > most:
            raise ApiError(400, f'{count_of(count, "picture")}; expected at most {most}.', 'invalid_value', 'messages')
        return request

    async def check(self, request: ChatRequest, take: Callable[[int], None]) -> None:
        """Find the pictures of a request, and see that it fits into the session.

        Raises:
            ApiError: says what is wrong with it.
        """
        places, sizes, loop = request.pictures, [], asyncio.get_running_loop()
        end = loop.time() + self.settings.patience
        for number, place in enumerate(places, 1):
            try:
                if loop.time() > end and is_web_address(place['url']):
                    raise DataError(f'the pictures before it took {self.settings.patience:g} s to fetch')
                picture = await self.pictures.load(place['url'], take)
            except DataError as error:
                which = f'Picture {number} of {len(places)}' if len(places) > 1 else 'The picture'
                raise ApiError(400, f'{which}: {_one_line(error)}', 'invalid_image', 'messages') from None
            take(COPIES * (len(picture.url) - len(place['url'])))
            place['url'] = picture.url
            sizes.append(picture.size)
        most, limit = request.max_tokens or self.settings.max_tokens, self.settings.session_len
        if self.counter is not None:
            request.prompt_tokens = await self.run(self.counter.count, request.messages, sizes, limit)
            most = min(most, limit - request.prompt_tokens) if limit is not None else most
        request.max_tokens = most

    async def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function in one of the threads."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)


def _no_number(text: str) -> None:
    raise ValueError(f'{text} is not a number there')


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError('a key stands twice in one object, and readers take either')
    return made


def _one_line(error: DataError) -> str:
    """An error of mmft as a sentence or two; a picture that came as bytes has no name worth repeating."""
    what = error.bare if error.file is None or error.file.startswith('<') else error.what
    tail = [f'expected {error.expected}'] if error.expected else []
    tail += [error.fix] if error.fix else []
    return '; '.join([what, *tail]) + '.'
