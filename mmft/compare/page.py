"""A comparison as one HTML page that carries its pictures and needs nothing else."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mmft import pages
from mmft.compare.results import CHANGES, Comparison, Row
from mmft.errors import DataError, first_line
from mmft.evaluation.bootstrap import Interval
from mmft.structures import IMAGE_PLACEHOLDER
from mmft.talk.conversation_page import settings_line, small_jpeg
from mmft.words import count_of

__all__ = ['page', 'verdict']

_SHOWN = 480  # px, the longer side of a picture on the page
_KINDS = {
    'all': ('all', '全部'),
    'better': ('better', '变好'),
    'worse': ('worse', '变差'),
    'other': ('different answer, same score', '回答不同，得分相同'),
    'same': ('same answer', '回答相同'),
}


def page(found: Comparison, most: int = 400) -> str:
    """The page.

    Args:
        most: how many answers it shows, those that changed first.
    """
    counts, rows = found.counts(), found.rows[:most]
    a, b = map(html.escape, found.names)
    return pages.render(
        Path(__file__).parent / 'page.html',
        ' and '.join(found.names),
        heading=f'<span>{_side("a")} {a}<span class="to">→</span></span><span>{_side("b")} {b}</span>',
        lead=_lead(found),
        notice=_notice(found),
        scores=''.join(
            _score(side, name, score) for side, name, score in zip('ab', found.names, found.scores, strict=True)
        ),
        verdict=_verdict(found),
        filter=_choice('all', len(found.rows), ' checked') + ''.join(_choice(kind, counts[kind]) for kind in CHANGES),
        cards='\n'.join(_card(row) for row in rows),
        more=_more(len(found.rows) - len(rows)),
        settings=html.escape(settings_line(found.settings)),
    )


def _more(number: int) -> str:
    note = pages.both(f'{number:,} more in the JSON file.', f'另有 {number:,} 条在 JSON 文件中。')
    return f'<p class="more">{note}</p>' if number else ''


def verdict(found: Comparison) -> str:
    """The difference in a sentence, for a terminal."""
    return _verdicts(found)[0]


def _verdicts(found: Comparison) -> tuple[str, str]:
    """The difference in a sentence, in English and Chinese."""
    value, low, high = (100 * number for number in found.difference)
    second = found.names[1]
    if low == high == 0:
        return 'the same score on every question', '每个问题的得分都相同'
    if low <= 0 <= high:
        return (
            f'no difference that these questions can show: {value:+.1f} points, 95% interval {low:+.1f} to {high:+.1f}',
            f'这些问题看不出差别：{value:+.1f} 分，95% 置信区间 {low:+.1f} 到 {high:+.1f}',
        )
    better, better_zh = ('better', '更好') if low > 0 else ('worse', '更差')
    return (
        f'{second} is {better}: {value:+.1f} points, 95% interval {low:+.1f} to {high:+.1f}',
        f'{second} {better_zh}：{value:+.1f} 分，95% 置信区间 {low:+.1f} 到 {high:+.1f}',
    )


def _verdict(found: Comparison) -> str:
    _, low, high = found.difference
    kind = 'good' if low > 0 else 'bad' if high < 0 else 'even'
    return f'<b class="{kind}">{pages.both(*map(html.escape, _verdicts(found)))}</b>'


def _lead(found: Comparison) -> str:
    number, dataset, metric = len(found.rows), html.escape(found.dataset or ''), html.escape(found.metric)
    return pages.both(
        f'{count_of(number, "question")}{dataset and f" of {dataset}"}, scored by {metric}',
        f'{dataset and f"{dataset}："}{number:,} 个问题，评分方式 {metric}',
    )


def _notice(found: Comparison) -> str:
    notes, notes_zh = [], []
    if found.ended is not None:
        why = html.escape('Ctrl-C' if isinstance(found.ended, KeyboardInterrupt) else first_line(found.ended))
        notes.append(f'Stopped after {len(found.rows):,} of {count_of(found.asked, "question")}: {why}.')
        notes_zh.append(f'共 {found.asked:,} 个问题，在第 {len(found.rows):,} 个之后停止：{why}。')
    if found.failed:
        failed = 'One answer failed and counts' if found.failed == 1 else f'{found.failed:,} answers failed and count'
        notes.append(f'{failed} as wrong.')
        notes_zh.append(f'{found.failed:,} 个回答失败，按错误计。')
    if found.left_out:
        notes.append(f'{count_of(found.left_out, "record")} of the dataset left out: mmft check-data says why.')
        notes_zh.append(f'跳过了 {found.left_out:,} 条有问题的记录，用 mmft check-data 查看原因。')
    return f'<p class="notice">{pages.both(" ".join(notes), "".join(notes_zh))}</p>' if notes else ''


def _side(side: str) -> str:
    return f'<span class="side {side}">{side.upper()}</span>'


def _score(side: str, name: str, score: Interval) -> str:
    value, low, high = score
    return (
        f'<div class="score {side}"><span class="name">{_side(side)}<span title="{html.escape(name)}">'
        f'{html.escape(name)}</span></span><span class="track"><i style="width:{value:.2%}"></i>'
        f'<u style="left:{low:.2%};width:{high - low:.2%}"></u></span><b>{value:.1%}</b>'
        f'<small>{100 * low:.1f} to {100 * high:.1f}</small></div>'
    )


def _choice(name: str, count: int, state: str = '') -> str:
    text, key = pages.both(*_KINDS[name]), f'id="show-{name}"'
    return f'<input type="radio" name="show" {key}{state}><label for="show-{name}">{text} <b>{count:,}</b></label>'


def _card(row: Row) -> str:
    question = row.question
    *before, last = question.messages
    pictures = ''.join(_picture(path) for path in question.images)
    turns = ''.join(
        f'<p class="text"><b>{html.escape(turn["role"])}</b> {_text(turn["content"])}</p>' for turn in before
    )
    name = html.escape(question.id or f'#{question.key}')
    return (
        f'<figure class="card {row.change}">{pictures and f"<div class=pictures>{pictures}</div>"}<figcaption>'
        f'{turns and f"<details><summary>{_turns_before(len(before))}</summary>{turns}</details>"}'
        f'<p class="text question">{_text(last["content"])}</p>'
        f'{"".join(_said(row, number) for number in (0, 1))}'
        f'<p class="text truth"><span class="where">{name}</span>{pages.both("dataset", "标注")}: '
        f'{_references(question.references)}</p></figcaption></figure>'
    )


def _turns_before(number: int) -> str:
    return pages.both(f'{count_of(number, "turn")} before', f'之前的 {number} 轮')


def _text(content: str) -> str:
    return html.escape(content.replace(IMAGE_PLACEHOLDER, '').strip())


def _said(row: Row, number: int) -> str:
    answer, score = row.answers[number], row.scores[number]
    kind = 'good' if score == 1 else 'bad' if score == 0 else ''
    mark = {1.0: '✓', 0.0: '✗'}.get(score, f'{score:.2f}')
    if answer is None:
        text = f'<em>{html.escape(row.errors[number])}</em>'
    else:
        text = html.escape(answer) or f'<em>{pages.both("nothing", "无")}</em>'
    return (
        f'<div class="said">{_side("ab"[number])}<p class="text">{text}</p>'
        f'<b class="mark {kind}" title="score {score:g}">{mark}</b></div>'
    )


def _references(references: Sequence[str]) -> str:
    counted = Counter(references).most_common()
    shown = [f'{html.escape(text)}{f" ×{count}" if count > 1 else ""}' for text, count in counted[:6]]
    return ' · '.join([*shown, *(['…'] if len(counted) > 6 else [])])


def _picture(path: str) -> str:
    try:
        return pages.image_tag(small_jpeg(Path(path), _SHOWN), Path(path).name)
    except DataError:  # its answers say why
        return ''
