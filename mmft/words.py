"""Text for people: counts with their nouns, and text from data, files and models made safe to print."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

__all__ = ['clipped', 'count_of', 'did_you_mean', 'near_names', 'printable', 'suggested']

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


def did_you_mean(name: Any, known: Iterable[Any], cutoff: float = 0.5) -> str:
    """The end of a message about a name that is close to a known one, whatever its case; empty where none is.

    >>> did_you_mean('tarin', ['train', 'serve']), did_you_mean('ok', ['OK']), did_you_mean('x', ['train'])
    ("; did you mean 'train'?", "; did you mean 'OK'?", '')
    """
    near = near_names(name, known, cutoff=cutoff)
    return f'; {suggested(near)}' if near else ''


def near_names(name: Any, known: Iterable[Any], most: int = 1, cutoff: float = 0.6) -> list[str]:
    """The known names nearest to one, best first, whatever their case; one that differs in case alone stands alone.

    >>> near_names('tarin', ['train', 'Trained'], most=2), near_names('ok', ['OK', 'oka'], most=2)
    (['train', 'Trained'], ['OK'])
    """
    names, folded = {text.casefold(): text for text in map(str, known)}, str(name).casefold()
    found = [folded] if folded in names else difflib.get_close_matches(folded, names, n=most, cutoff=cutoff)
    return [names[key] for key in found]


def suggested(near: Sequence[str], otherwise: str = '', form: Callable[[str], str] = repr) -> str:
    """The question whether one of these names was meant; ``otherwise`` where there is none.

    >>> suggested(['a', 'b']), suggested([], 'remove it')
    ("did you mean 'a' or 'b'?", 'remove it')
    """
    return f'did you mean {" or ".join(map(form, near))}?' if near else otherwise


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
