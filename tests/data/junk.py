"""Seeded junk for fuzz tests: values that JSON can hold and nobody expects, and values with some of it put in."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

VALUES = [
    None, True, False, 0, -1, 1, 2.5, -0.0, 1e308, float('nan'), float('inf'), 2**63, 10**400, '', ' ', '\n', '\0',
    'a\0b.png', '\ud83d', '\ud83d.png', '\udc80.png', 'x' * 5000, 'd/' * 3000 + 'a.png', '..', '../../etc/passwd', '/',
    '/dev/zero', '~', 'a.png/b.png', '<image>', '<image>' * 9, '<image1>', '<img>a.png</img>', '<img></img>',
    '<IMG_CONTEXT>', '<|im_end|>', '{}', '[]', 'null', '0.5', 'NaN', '🍜', 'file:///a.png', 'http://[',
    'data:image/png;base64,AAAA', '\u202e\x1b[2J', [], [[]], [None], [[], {}], ['a.png'], [0, 'a', None], {}, {'': ''},
    {'path': None}, {'path': 5, 'bytes': [1]}, {'type': 'subprocess.Popen', 'args': ['true']}, {'a': {'b': [{}]}},
    [{'role': 'user'}], ['x'] * 300,
]  # fmt: skip


def places(value: Any, at: tuple = ()) -> Iterator[tuple]:
    """The way to every value inside."""
    yield at
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*at, key))


def spoilt(value: Any, rng: random.Random) -> Any:
    """A copy with one to three things changed: replaced, taken out, wrapped, doubled, or put under another key."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        *way, last = rng.choice([at for at in places(value) if at] or [(None,)])
        if last is None:
            return copy.deepcopy(rng.choice(VALUES))
        holder = value
        for key in way:
            holder = holder[key]
        junk, how = copy.deepcopy(rng.choice(VALUES)), rng.randrange(10)
        if how == 0:
            del holder[last]
        elif how == 1:
            holder[last] = [holder[last]]
        elif how == 2 and isinstance(holder, list):
            holder += holder[:2]
        elif how == 3 and isinstance(holder, dict):
            holder[str(junk)] = holder.pop(last)
        elif how == 4 and isinstance(holder, dict):
            holder[str(rng.choice(VALUES))] = junk
        else:
            holder[last] = junk
    return value


def spoilt_bytes(value: Any, rng: random.Random) -> bytes:
    """The value as JSON whose bytes are damaged, or in another encoding."""
    text = json.dumps(value)
    raw = bytearray(text.encode(rng.choice(('utf-8', 'utf-8', 'utf-8-sig', 'utf-16', 'utf-32'))))
    for _ in range(rng.randrange(3)):
        at = rng.randrange(len(raw))
        raw[at : at + rng.randrange(3)] = bytes(rng.randrange(256) for _ in range(rng.randrange(4)))
        raw = raw or bytearray(b' ')
    return bytes(raw[: rng.randrange(len(raw))] if rng.random() < 0.2 else raw)
