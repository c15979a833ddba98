"""What several models said in a conversation, as one HTML page that carries its pictures."""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from mmft import pages
from mmft.data.pictures.loading import load_image
from mmft.errors import DataError
from mmft.talk.side_by_side import Reply, Turn
from mmft.words import count_of

__all__ = ['dataset_says', 'mark', 'page', 'settings_line', 'small_jpeg']

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
    return pages.render(
        Path(__file__).parent / 'conversation_page.html',
        ' · '.join(names),
        columns=len(names),
        lead=f'{pages.both(count_of(len(turns), "question"), f"{len(turns)} 个问题")}, {when:%Y-%m-%d %H:%M}',
        turns='\n'.join(_turn(names, turn, bool(number) and not turn.alone) for number, turn in enumerate(turns)),
        settings=html.escape(_all_settings(turns)),
    )


def mark(reply: Reply, expected: str) -> str:
    """✓ or ✗ in HTML, outer spaces aside; nothing where nothing is expected or the reply did not come to its end."""
    if not expected or reply.state != 'done':
        return ''
    right = reply.text.strip() == expected.strip()
    return f'<b class="{"good" if right else "bad"}">{"✓" if right else "✗"}</b>'


def dataset_says(expected: str) -> str:
    """What the data set has as the answer, in HTML."""
    return f'{pages.both("the dataset says", "标注为")} <b>{html.escape(expected)}</b>'


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
        f'<p class="note">{pages.both("and then:", "接着：")}</p>' if follows else '',
        f'<div class="pictures">{pictures}</div>' if pictures else '',
        f'<p class="question">{html.escape(turn.question)}</p>' if turn.question else '',
        f'<div class="replies">{replies}</div>',
        f'<p class="expected">{dataset_says(turn.expected)}</p>' if turn.expected else '',
    ]
    return f'<section>{"".join(shown)}</section>'


def _picture(path: Path) -> str:
    try:
        return pages.image_tag(small_jpeg(path), path.name)
    except DataError:  # taken away since it was shown
        name = html.escape(path.name)
        return f'<p class="note">{pages.both(f"{name} is gone", f"{name} 已不存在")}</p>'


def _reply(reply: Reply) -> str:
    notes = {
        'stopped': ('stopped', '已停止'),
        'waiting': ('not answered yet', '尚未回答'),
        'writing': ('not finished yet', '尚未完成'),
    }
    note = notes.get(reply.state, None if reply.text or reply.error else ('no text', '没有文字'))
    shown = [
        f'<p class="text">{html.escape(reply.text)}</p>' if reply.text else '',
        f'<p class="note">{pages.both(*note)}</p>' if note else '',
        f'<p class="error">{html.escape(reply.error)}</p>' if reply.error else '',
    ]
    return ''.join(shown)
