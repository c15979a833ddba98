"""Text for people: counts with their nouns, and text from data, files and models made safe to print."""

from __future__ import annotations

import difflib
import re
from typing import Any

__all__ = ['clipped', 'count_of', 'did_you_mean', 'printable']

# C0 and C1 control characters but newline and tab; the marks that change the direction of text or hide it; half
# surrogates, which no stream can encode.
_UNPRINTABLE = re.compile(
    '[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028\u2029\u202a-\u202e\u2060-\u2069\ufeff\ud800-\udfff]'
)


def count_of(number: int, singular: str, plural: str | None = None) -> str:
    """A number with its noun.

    >>> count_of(1, 'record'), count_of(1200, 'record'), count_of(0, 'box', 'boxes')
    ('1 record', '1,200 records', '0 boxes')
    """
    return f'{number:,} {singular if number == 1 else plural or singular + "s"}'


def did_you_mean(name: Any, known: Any, cutoff: float = 0.5) -> str:
    """The end of a message about a name that is close to a known one, whatever its case; empty where none is.

    >>> did_you_mean('tarin', ['train', 'serve']), did_you_mean('ok', ['OK']), did_you_mean('x', ['train'])
    ("; did you mean 'train'?", "; did you mean 'OK'?", '')
    """
    names = {text.casefold(): text for text in map(str, known)}
    near = difflib.get_close_matches(str(name).casefold(), names, n=1, cutoff=cutoff)
    return f'; did you mean {names[near[0]]!r}?' if near else ''


def printable(text: object) -> str:
    """Text that a stranger may have written, for a terminal, a log or a message: it cannot move the cursor, colour,
    clear or retitle the terminal, nor turn the direction of what follows. Newlines and tabs stay.

    >>> printable('a' + chr(27) + '[2Jb' + chr(13) + 'c')
    'a\\\\x1b[2Jb\\\\rc'
    """
    return _UNPRINTABLE.sub(lambda match: ascii(match[0])[1:-1], str(text))


def clipped(text: object, limit: int = 200) -> str:
    """``printable`` text of at most about ``limit`` characters: of a longer one its start, and how long it is.

    >>> clipped('a' * 1000, limit=5)
    'aaaaa... (1,000 characters)'
    """
    text = str(text)
    return printable(text) if len(text) <= limit else f'{printable(text[:limit])}... ({len(text):,} characters)'
