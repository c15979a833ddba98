"""What several models said in a conversation, as one HTML page that carries its pictures."""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from mmft import pages
from mmft.data.loading import load_image
from mmft.errors import DataError
from mmft.serve.side_by_side import Reply, Turn

__all__ = ['mark', 'page', 'settings_line', 'small_jpeg']

_SHOWN = 960  # px, the longer side of a picture on a page


def page(names: Sequence[str], turns: Sequence[Turn], when: datetime | None = None) -> str:
    """The page.

    Args:
        names: of the models, in the order of the replies.
        turns: what was asked and answered.
        when: the time on the page; default: now.

    Raises:
        DataError: nothing was asked yet.
    """
    if not turns:
        raise DataError('nothing has been asked yet', fix='ask a question first')
    when = when or datetime.now().astimezone()
    questions = 'one question' if len(turns) == 1 else f'{len(turns)} questions'
    return pages.render(
        Path(__file__).parent / 'comparison.html',
        ' · '.join(names),
        columns=len(names),
        lead=f'{questions}, {when:%Y-%m-%d %H:%M}',
        turns='\n'.join(_turn(names, turn, bool(number) and not turn.alone) for number, turn in enumerate(turns)),
        footer=f'written by mmft · {html.escape(_all_settings(turns))}',
    )


def mark(reply: Reply, expected: str) -> str:
    """✓ or ✗ in HTML, outer spaces aside; nothing where nothing is expected or the reply did not come to its end."""
    if not expected or reply.state != 'done':
        return ''
    right = reply.text.strip() == expected.strip()
    return f'<b class="{"good" if right else "bad"}">{"✓" if right else "✗"}</b>'


def settings_line(settings: Mapping[str, Any]) -> str:
    """Sampling settings in words.

    >>> settings_line({'temperature': 0.0, 'top_p': 1.0, 'max_new_tokens': 64, 'seed': None})
    'greedy, at most 64 tokens'
    """
    most = f'at most {settings.get("max_new_tokens", 512)} tokens'
    if not settings.get('temperature'):
        return f'greedy, {most}'
    seed = '' if settings.get('seed') is None else f', seed {settings["seed"]}'
    return f'temperature {settings["temperature"]:g}, top-p {settings.get("top_p", 1.0):g}{seed}, {most}'


def small_jpeg(path: Path, side: int = _SHOWN) -> bytes:
    """The picture as a page shows it: upright, at most ``side`` pixels long.

    Raises:
        DataError: it cannot be read.
    """
    picture = load_image(path)
    picture.thumbnail((side, side))
    buffer = io.BytesIO()
    picture.save(buffer, 'JPEG', quality=88)
    return buffer.getvalue()


def _all_settings(turns: Sequence[Turn]) -> str:
    return ' / '.join(dict.fromkeys(settings_line(turn.settings) for turn in turns))


def _turn(names: Sequence[str], turn: Turn, follows: bool) -> str:
    pictures = ''.join(_picture(path) for path in turn.images)
    replies = ''.join(
        f'<article><h2>{html.escape(name)} <span>{mark(reply, turn.expected)} {reply.seconds:.1f} s</span></h2>'
        f'{_reply(reply)}</article>'
        for name, reply in zip(names, turn.replies, strict=True)
    )
    shown = [
        '<p class="note">and then:</p>' if follows else '',
        f'<div class="pictures">{pictures}</div>' if pictures else '',
        f'<p class="question">{html.escape(turn.question)}</p>' if turn.question else '',
        f'<div class="replies">{replies}</div>',
        f'<p class="expected">the dataset says <b>{html.escape(turn.expected)}</b></p>' if turn.expected else '',
    ]
    return f'<section>{"".join(shown)}</section>'


def _picture(path: Path) -> str:
    try:
        return pages.image_tag(small_jpeg(path), path.name)
    except DataError:  # taken away since it was shown
        return f'<p class="note">{html.escape(path.name)} is gone</p>'


def _reply(reply: Reply) -> str:
    notes = {'stopped': 'stopped', 'waiting': 'not answered yet', 'writing': 'not finished yet'}
    note = notes.get(reply.state, '' if reply.text or reply.error else 'no text')
    shown = [
        f'<p class="text">{html.escape(reply.text)}</p>' if reply.text else '',
        f'<p class="note">{note}</p>' if note else '',
        f'<p class="error">{html.escape(reply.error)}</p>' if reply.error else '',
    ]
    return ''.join(shown)
