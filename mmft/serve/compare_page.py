"""A comparison as one HTML page that carries its pictures and needs nothing else."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mmft import pages
from mmft.errors import DataError, first_line
from mmft.evaluation.bootstrap import Interval
from mmft.serve.compare import CHANGES, Comparison, Row
from mmft.serve.comparison import settings_line, small_jpeg
from mmft.structures import IMAGE_PLACEHOLDER

__all__ = ['page', 'verdict']

_SHOWN = 480  # px, the longer side of a picture on the page
_KINDS = {'better': 'better', 'worse': 'worse', 'other': 'other answer, same score', 'same': 'same answer'}


def page(found: Comparison, most: int = 400) -> str:
    """The page.

    Args:
        most: how many answers it shows, those that changed first.
    """
    counts, rows = found.counts(), found.rows[:most]
    a, b = map(html.escape, found.names)
    more = len(found.rows) - len(rows)
    return pages.render(
        Path(__file__).parent / 'compare.html',
        ' and '.join(found.names),
        heading=f'<span>{_side("a")} {a}<span class="to">→</span></span><span>{_side("b")} {b}</span>',
        lead=html.escape(_lead(found)),
        notice=_notice(found),
        scores=''.join(
            _score(side, name, score) for side, name, score in zip('ab', found.names, found.scores, strict=True)
        ),
        verdict=_verdict(found),
        filter=_choice('all', 'all', len(found.rows), ' checked')
        + ''.join(_choice(kind, _KINDS[kind], counts[kind]) for kind in CHANGES),
        cards='\n'.join(_card(row) for row in rows),
        more=f'<p class="more">{more:,} more are in the json file.</p>' if more else '',
        footer=f'Answers: {html.escape(settings_line(found.settings))}. Intervals: bootstrap over pictures, 95%. '
        'Written by mmft.',
    )


def verdict(found: Comparison) -> str:
    """The difference in a sentence, for a terminal."""
    value, low, high = (100 * number for number in found.difference)
    between = f'{low:+.1f} to {high:+.1f}'
    if low == high == 0:
        return 'no difference on any question'
    if low <= 0 <= high:
        return f'{value:+.1f} points, which may be chance: 95% interval {between}'
    return f'{found.names[1]} is {"better" if low > 0 else "worse"}: {value:+.1f} points, 95% interval {between}'


def _verdict(found: Comparison) -> str:
    _, low, high = found.difference
    kind = 'good' if low > 0 else 'bad' if high < 0 else 'even'
    return f'<b class="{kind}">{html.escape(verdict(found))}</b>'


def _lead(found: Comparison) -> str:
    questions = f'{len(found.rows):,} questions' if len(found.rows) != 1 else 'one question'
    return f'{questions}{f" of {found.dataset}" if found.dataset else ""}, scored by {found.metric}'


def _notice(found: Comparison) -> str:
    told = []
    if found.ended is not None:
        why = 'Ctrl-C' if isinstance(found.ended, KeyboardInterrupt) else first_line(found.ended)
        told.append(f'Stopped after {len(found.rows):,} of {found.asked:,} questions: {why}.')
    if found.failed:
        failed = 'One answer failed and counts' if found.failed == 1 else f'{found.failed:,} answers failed and count'
        told.append(f'{failed} as wrong.')
    return f'<p class="notice">{html.escape(" ".join(told))}</p>' if told else ''


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


def _choice(name: str, text: str, count: int, state: str = '') -> str:
    key = f'id="show-{name}"'
    return f'<input type="radio" name="show" {key}{state}><label for="show-{name}">{text} <b>{count:,}</b></label>'


def _card(row: Row) -> str:
    question = row.question
    *before, last = question.messages
    pictures = ''.join(_picture(path) for path in question.images)
    turns = ''.join(f'<p class="text"><b>{turn["role"]}</b> {_text(turn["content"])}</p>' for turn in before)
    name = html.escape(question.id or f'#{question.key}')
    return (
        f'<figure class="card {row.change}">{pictures and f"<div class=pictures>{pictures}</div>"}<figcaption>'
        f'{turns and f"<details><summary>{len(before)} turns before</summary>{turns}</details>"}'
        f'<p class="text question">{_text(last["content"])}</p>'
        f'{"".join(_said(row, number) for number in (0, 1))}'
        f'<p class="text truth"><span class="where">{name}</span>dataset: {_references(question.references)}</p>'
        '</figcaption></figure>'
    )


def _text(content: str) -> str:
    return html.escape(content.replace(IMAGE_PLACEHOLDER, '').strip())


def _said(row: Row, number: int) -> str:
    answer, score = row.answers[number], row.scores[number]
    kind = 'good' if score == 1 else 'bad' if score == 0 else ''
    mark = {1.0: '✓', 0.0: '✗'}.get(score, f'{score:.2f}')
    if answer is None:
        text = f'<em>{html.escape(row.errors[number])}</em>'
    else:
        text = html.escape(answer) or '<em>nothing</em>'
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
