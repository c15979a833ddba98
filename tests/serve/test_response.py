"""Answers that take their time: given up when the client goes, whatever they are doing at that moment."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from mmft.serve.gateway.api_error import ApiError
from mmft.serve.gateway.response import CancellableResponse


def replied(work, leaves=False, patience=60.0, send=None):
    """(what was counted, the messages that were sent)."""
    counted, sent = [], []

    @asynccontextmanager
    async def taken(request):
        yield work

    async def receive():
        if leaves:
            await asyncio.sleep(0.05)
            return {'type': 'http.disconnect'}
        return await asyncio.Event().wait()

    async def keep(message):
        sent.append(message)

    asyncio.run(CancellableResponse(taken, counted.append, patience)({'type': 'http'}, receive, send or keep))
    return counted, sent


async def put(send):
    await send({'type': 'http.response.start', 'status': 200, 'headers': []})


def test_an_answer():
    assert replied(put) == (['answered'], [{'type': 'http.response.start', 'status': 200, 'headers': []}])


@pytest.mark.parametrize('deaf', [0, 1, 2])
def test_a_client_that_goes(deaf):
    """Also where the order to stop is lost on the way, as ``asyncio.wait_for`` may lose it."""
    ended = []

    async def work(send):
        for _ in range(deaf):
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                continue
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    assert (replied(work, leaves=True), ended) == ((['left'], []), [True])


def test_a_client_that_goes_while_pieces_are_sent_all_the_time():
    async def work(send):
        while True:
            await put(send)

    assert replied(work, leaves=True)[0] == ['left']


def test_a_client_that_does_not_read():
    async def stuck(message):
        await asyncio.sleep(60)

    assert replied(put, patience=0.05, send=stuck)[0] == ['left']


@pytest.mark.parametrize(('status', 'what'), [(400, 'refused'), (503, 'failed')])
def test_errors(status, what):
    async def work(send):
        raise ApiError(status, 'no')

    counted, sent = replied(work)
    assert (counted, sent[0]['status'], len(sent)) == ([what], status, 2)

    async def late(send):
        await put(send)
        raise ApiError(status, 'no')

    counted, sent = replied(late)
    assert (counted, len(sent)) == ([what], 1)


def test_bugs_are_not_hidden():
    async def work(send):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        replied(work)
