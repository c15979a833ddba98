"""What the page of ``mmft webui`` shows of a conversation, as gradio's chat and HTML take it."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmft.errors import DataError
from mmft.serve.comparison import mark
from mmft.serve.side_by_side import Reply, Turn

__all__ = ['error_html', 'head', 'literal', 'messages_of', 'sampling_of', 'told_apart', 'verdict']

# Only what Markdown is sure to take as code; of the rest too much is escaped rather than too little.
_CODE = re.compile(
    r'(^[ \t]*```[^`\n]*(?:\n.*?(?:^[ \t]*```+[ \t]*$|\Z)|\Z)|(?<![`\\])`[^`\n]+`(?!`))', re.DOTALL | re.MULTILINE
)
_DOTS = '<span class="mmft-note">…</span>'


def messages_of(turns: Sequence[Turn], model: int, shown: Callable[[Path], str | None]) -> list[dict[str, Any]]:
    """The chat of one model.

    Args:
        turns: of the conversation.
        model: which of its replies.
        shown: the address of what stands on the page for a picture; None where it cannot be read any more.
    """
    messages = []
    for turn in turns:
        # As HTML: gradio's own pictures have a button that shares them, and no name for those who cannot see.
        pictures = ''.join(_picture(image, shown(image)) for image in turn.images)
        lead = f'<div class="mmft-pictures">{pictures}</div>\n\n' if pictures else ''
        alone = '<span class="mmft-note">on its own:</span>\n\n' if turn.alone and messages else ''
        messages.append({'role': 'user', 'content': alone + lead + literal(turn.question)})
        messages.append({'role': 'assistant', 'content': _reply(turn.replies[model])})
    return messages


def literal(text: str) -> str:
    """Markdown that shows tags as they were written, and fetches no picture.

    InternVL writes ``<ref>`` and ``<box>`` into answers: as HTML they would vanish.

    >>> literal('<ref>cat</ref> and `<box>`')
    '&lt;ref>cat&lt;/ref> and `<box>`'
    """
    parts = _CODE.split(text)
    plain = [part.replace('&', '&amp;').replace('<', '&lt;').replace('![', '!\\[') for part in parts[::2]]
    return ''.join(part for pair in zip(plain, [*parts[1::2], ''], strict=True) for part in pair)


def error_html(error: object) -> str:
    """An error's lines as HTML."""
    return html.escape(str(error)).replace('\n', '<br>')


def told_apart(names: Sequence[str]) -> list[str]:
    """The names, with numbers where they are the same.

    >>> told_apart(['food', 'food'])
    ['food (1)', 'food (2)']
    """
    return [f'{name} ({number})' if names.count(name) > 1 else name for number, name in enumerate(names, 1)]


def head(names: Sequence[str]) -> str:
    """The first line of the page."""
    models = ' <span>and</span> '.join(map(error_html, names))
    return f'<h1><span>mmft ·</span> {models}{" <span>side by side</span>" if len(names) > 1 else ""}</h1>'


def sampling_of(most: float, temperature: float, top_p: float, seed: str | None) -> dict[str, Any]:
    """What ``Answerer.stream`` takes, of the form's fields.

    Raises:
        DataError: a seed that is no number.
    """
    seed = (seed or '').strip()
    if seed and not (seed.isascii() and seed.isdecimal()):
        raise DataError(f'the seed {seed!r}', expected='a whole number, or nothing')
    return {
        'max_new_tokens': int(most),
        'temperature': float(temperature),
        'top_p': float(top_p),
        'seed': int(seed) if seed else None,
    }


def verdict(turns: Sequence[Turn], names: Sequence[str]) -> str:
    """A line below the chats: how long the last replies took, whether they agree, what the dataset says."""
    if not turns:
        return ''
    turn = turns[-1]
    parts = [
        f'<b>{html.escape(name)}</b> {_how(reply)} {mark(reply, turn.expected)}'
        for name, reply in zip(names, turn.replies, strict=True)
    ]
    if len(turn.replies) > 1 and all(reply.state == 'done' for reply in turn.replies):
        same = len({reply.text.strip() for reply in turn.replies}) == 1
        parts.append('the same answer' if same else 'different answers')
    if turn.expected:
        parts.append(f'the dataset says <b>{html.escape(turn.expected)}</b>')
    return ' &nbsp;·&nbsp; '.join(parts)


def _picture(image: Path, address: str | None) -> str:
    name = html.escape(image.name)
    if address is None:
        return f'<span class="mmft-note">({name} is gone)</span>'
    source = html.escape(address)
    return f'<a href="{source}" target="_blank"><img src="{source}" alt="{name}"></a>'


def _how(reply: Reply) -> str:
    if reply.state == 'waiting':
        return 'is asked …'
    if reply.state == 'writing':
        return 'answers …'
    what = {'done': '', 'stopped': 'was stopped, ', 'failed': 'failed, '}[reply.state]
    return f'{what}{reply.seconds:.1f} s'


def _reply(reply: Reply) -> str:
    text = literal(reply.text)
    if reply.error:
        lead = f'{text}\n\n' if text else ''
        return f'{lead}<div class="mmft-error">{error_html(reply.error)}</div>'
    if reply.state == 'stopped':
        return f'{text}\n\n<span class="mmft-note">(stopped)</span>' if text else _NOTHING.format('stopped')
    if text:
        return text
    return _NOTHING.format('no text') if reply.over else _DOTS


_NOTHING = '<span class="mmft-note">({})</span>'
