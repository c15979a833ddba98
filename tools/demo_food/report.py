"""The demo's results: a table for the terminal and a page that carries its pictures."""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from demo_food.stages import Family
from mmft import pages

__all__ = ['page', 'table']

GREEN, RED, BOLD, DIM, OFF = '\033[32m', '\033[31m', '\033[1m', '\033[2m', '\033[0m'


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(char) in 'WF' else 1 for char in text)


def _pad(text: str, width: int) -> str:
    return text + ' ' * max(0, width - _width(text))


def table(results: Mapping[str, Any], color: bool = False) -> str:
    """Before and after, dish by dish.

    Args:
        results: what ``exam.grade`` gave.
        color: with ANSI colours.
    """

    def paint(text: str, code: str) -> str:
        return f'{code}{text}{OFF}' if color else text

    def score(value: float) -> str:
        return paint(f'{value:>7.0%}', GREEN if value >= 0.9 else RED)

    lines = [paint(f'{_pad("dish", 36)}{_pad("before it was called", 24)}{"before":>7} {"after":>7}', BOLD)]
    lines.append(paint('-' * 76, DIM))
    for dish, own in results['dishes'].items():
        name = _pad(f'{_pad(dish, 12)}{own["english"]}', 36)
        lines.append(
            f'{name}{_pad(" / ".join(own["said_before"].values()), 24)}{score(own["before"])} {score(own["after"])}'
        )
    lines.append(paint('-' * 76, DIM))
    total = _pad(f'all {results["n"]} held-out questions, exact match', 60)
    lines.append(f'{paint(total, BOLD)}{score(results["before"])} {score(results["after"])}')
    return '\n'.join(lines)


def page(results: Mapping[str, Any], seconds: Mapping[str, float], family: Family) -> str:
    """A self-contained HTML page: both accuracies, the dishes, and every picture with its question and both answers."""
    cards = '\n'.join(_card(row) for row in results['answers'])
    dishes = '\n'.join(_dish(name, own) for name, own in results['dishes'].items())
    total = sum(seconds.values())
    phases = ' · '.join(f'{html.escape(name)} {value:.0f} s' for name, value in seconds.items())
    return pages.render(
        Path(__file__).parent / 'page.html',
        'mmft demo: what dish is this?',
        model=html.escape(family.model),
        between=html.escape(family.between),
        between_zh=html.escape(family.between_zh),
        n=results['n'],
        before=_bar(pages.both('before fine-tuning', '微调前'), results['before'], 'bad'),
        after=_bar(pages.both('after fine-tuning', '微调后'), results['after'], 'good'),
        dishes=dishes,
        cards=cards,
        phases=f'{phases} · {pages.both(f"{total:.0f} s in all", f"共 {total:.0f} s")}',
    )


def _bar(name: str, value: float, kind: str) -> str:
    return (
        f'<div class="bar"><span class="name">{name}</span><span class="track"><i class="{kind}" '
        f'style="width:{max(value, 0.004):.1%}"></i></span><b>{value:.0%}</b></div>'
    )


def _dish(name: str, own: Mapping[str, Any]) -> str:
    said = ' / '.join(html.escape(text) for text in own['said_before'].values())
    # What has improved is not red, even where it is not good yet.
    kind = 'good' if own['after'] >= 0.9 else '' if own['after'] > own['before'] else 'bad'
    return (
        f'<tr><td lang="zh">{html.escape(name)}</td><td>{html.escape(own["english"])}</td><td>{said}</td>'
        f'<td class="num">{own["before"]:.0%}</td><td class="num {kind}">{own["after"]:.0%}</td></tr>'
    )


def _card(row: Mapping[str, Any]) -> str:
    path = Path(row['image'])
    picture = pages.image_tag(path.read_bytes(), row['expected'], 'png' if path.suffix == '.png' else 'jpeg')
    return (
        f'<figure>{picture}<figcaption><p class="q">{html.escape(row["question"])}</p>'
        f'{_answer(pages.both("before", "微调前"), row["before"], row["right_before"])}'
        f'{_answer(pages.both("after", "微调后"), row["after"], row["right_after"])}'
        f'<p class="truth">{pages.both("right answer", "正确答案")}: {html.escape(row["expected"])}</p>'
        '</figcaption></figure>'
    )


def _answer(when: str, text: str, right: bool) -> str:
    mark = '✓' if right else '✗'
    shown = html.escape(text) or f'<em>{pages.both("nothing", "无")}</em>'
    kind = 'good' if right else 'bad'
    return f'<div class="said {kind}"><small>{when}</small><p>{shown}</p><b>{mark}</b></div>'
