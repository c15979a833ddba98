"""What the page of ``mmft webui`` shows of a conversation, as gradio's chat and HTML take it."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmft.errors import DataError
from mmft.pages import both
from mmft.talk.conversation_page import dataset_says, mark
from mmft.talk.side_by_side import Reply, Turn
from mmft.words import count_of

__all__ = [
    'WORDS',
    'distinguished',
    'error_html',
    'escaped_markdown',
    'head',
    'left_out_html',
    'messages_of',
    'sampling_of',
    'verdict',
]  # fmt: skip

# Only what Markdown is sure to take as code; of the rest too much is escaped rather than too little. (A bar ends a cell
# of a table, code or not; `marked` lets tildes close a fence of backticks.)
_CODE = re.compile(
    r'(^ {0,3}```[^`\n]*(?:\n.*?(?:^ {0,3}```[`~]*[ \t]*$|\Z)|\Z)|(?<![`\\])`[^`|\n]+`(?!`))', re.DOTALL | re.MULTILINE
)
_OTHER_CODE = re.compile(r'`|~~~|\$\$')
WORDS = {
    'ask': ('Ask about a picture', '就图片提问'),
    'box': ('Question and pictures', '问题和图片'),
    'again': ('Ask again', '重新提问'),
    'forget': ('Start over', '重新开始'),
    'save': ('Save page', '保存页面'),
    'file': ('the page', '页面文件'),
    'drop': ('Drop, paste or attach a picture below, and ask about it.', '在下方拖入、粘贴或添加一张图片，然后提问。'),
    'examples': ('Examples', '示例'),
    'others': ('Other examples', '换一批示例'),
    'sampling': ('Sampling', '采样设置'),
    'longest': ('Longest answer', '最长回答'),
    'tokens': ('tokens', 'token 数'),
    'temperature': ('Temperature', '温度'),
    'greedy': ('0: always the most likely token', '0：总是选概率最高的 token'),
    'top-p': ('Top-p', 'Top-p'),
    'nucleus': (
        'with a temperature above 0: the most likely tokens that together have this probability',
        '温度大于 0 时：只在累计概率达到该值的 token 中采样',
    ),
    'seed': ('Seed', '随机种子'),
    'no seed': ('empty: another answer each time', '留空：每次回答不同'),
    'alone': ('Each question on its own', '每个问题单独提问'),
    'no history': ('the models do not see what was said before', '模型看不到之前的对话'),
}
"""The texts of gradio's own parts, in English and Chinese; all others on the page go through ``mmft.pages.both``."""

_DOTS = '<span class="mmft-note">…</span>'


def left_out_html(count: int) -> str:
    """How many records of the examples cannot be used."""
    return both(
        f'{count_of(count, "record")} left out: mmft check-data says why',
        f'跳过了 {count:,} 条有问题的记录，用 mmft check-data 查看原因',
    )


def messages_of(turns: Sequence[Turn], model: int, shown: Callable[[Path], str | None]) -> list[dict[str, Any]]:
    """The chat of one model.

    Args:
        turns: of the conversation.
        model: which of its replies.
        shown: the address of what stands on the page for a picture; None where it cannot be read any more.
    """
    messages = []
    for turn in turns:
        # As HTML: gradio's own pictures have a button that shares them, and no text for screen readers.
        pictures = ''.join(_picture(image, shown(image)) for image in turn.images)
        lead = f'<div class="mmft-pictures">{pictures}</div>\n\n' if pictures else ''
        alone = (
            f'<span class="mmft-note">{both("on its own:", "单独提问：")}</span>\n\n' if turn.alone and messages else ''
        )
        messages.append({'role': 'user', 'content': alone + lead + escaped_markdown(turn.question)})
        messages.append({'role': 'assistant', 'content': _reply(turn.replies[model])})
    return messages


def escaped_markdown(text: str) -> str:
    """Markdown that shows tags as they were written, and fetches no picture.

    InternVL writes ``<ref>`` and ``<box>`` into answers: as HTML they would vanish.

    >>> escaped_markdown('<ref>cat</ref> and `<box>`')
    '&lt;ref>cat&lt;/ref> and `<box>`'
    """
    text = text.replace('\r\n', '\n').replace('\r', '\n')  # as Markdown reads it
    parts = _CODE.split(text)
    if any(map(_OTHER_CODE.search, parts[::2])):  # where what was found as code may begin or end elsewhere
        parts = [text]
    plain = [part.replace('&', '&amp;').replace('<', '&lt;').replace('![', '!\\[') for part in parts[::2]]
    return ''.join(part for pair in zip(plain, [*parts[1::2], ''], strict=True) for part in pair)


def error_html(error: object) -> str:
    """An error's lines as HTML."""
    return html.escape(str(error)).replace('\n', '<br>')


def distinguished(names: Sequence[str]) -> list[str]:
    """The names, with numbers where they are the same.

    >>> distinguished(['food', 'food'])
    ['food (1)', 'food (2)']
    """
    return [f'{name} ({number})' if names.count(name) > 1 else name for number, name in enumerate(names, 1)]


def head(names: Sequence[str]) -> str:
    """The first line of the page."""
    models = f' <span>{both("and", "与")}</span> '.join(map(error_html, names))
    several = f' <span>{both("side by side", "并排对比")}</span>' if len(names) > 1 else ''
    return f'<h1><span>mmft ·</span> {models}{several}</h1>'


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
        parts.append(both('the same answer', '回答相同') if same else both('different answers', '回答不同'))
    if turn.expected:
        parts.append(dataset_says(turn.expected))
    return ' &nbsp;·&nbsp; '.join(parts)


def _picture(image: Path, address: str | None) -> str:
    name = html.escape(image.name)
    if address is None:
        return f'<span class="mmft-note">({both(f"{name} is gone", f"{name} 已不存在")})</span>'
    source = html.escape(address)
    return f'<a href="{source}" target="_blank"><img src="{source}" alt="{name}"></a>'


def _how(reply: Reply) -> str:
    if reply.state == 'waiting':
        return both('waiting …', '等待中……')
    if reply.state == 'writing':
        return both('answering …', '正在回答……')
    what = {'done': '', 'stopped': both('stopped, ', '已停止，'), 'failed': both('failed, ', '失败，')}[reply.state]
    return f'{what}{reply.seconds:.1f} s'


def _reply(reply: Reply) -> str:
    text = escaped_markdown(reply.text)
    if reply.error:
        lead = f'{text}\n\n' if text else ''
        return f'{lead}<div class="mmft-error">{error_html(reply.error)}</div>'
    if reply.state == 'stopped':
        stopped = _NOTHING.format(both('stopped', '已停止'))
        return f'{text}\n\n{stopped}' if text else stopped
    if text:
        return text
    return _NOTHING.format(both('no text', '没有文字')) if reply.over else _DOTS


_NOTHING = '<span class="mmft-note">({})</span>'
