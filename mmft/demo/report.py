"""The demo's results: a table for the terminal and a page that carries its pictures."""

from __future__ import annotations

import base64
import html
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ['page', 'table']

GREEN, RED, BOLD, DIM, OFF = '\033[32m', '\033[31m', '\033[1m', '\033[2m', '\033[0m'


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(char) in 'WF' else 1 for char in text)


def _pad(text: str, width: int) -> str:
    return text + ' ' * max(0, width - _width(text))


def table(results: Mapping[str, Any], color: bool = False) -> str:
    """Before and after, dish by dish.

    Args:
        results: what ``asking.compare`` gave.
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
        lines.append(f'{name}{_pad(own["said_before"], 24)}{score(own["before"])} {score(own["after"])}')
    lines.append(paint('-' * 76, DIM))
    total = _pad(f'all {results["n"]} held-out questions, exact match', 60)
    lines.append(f'{paint(total, BOLD)}{score(results["before"])} {score(results["after"])}')
    return '\n'.join(lines)


def page(results: Mapping[str, Any], seconds: Mapping[str, float]) -> str:
    """A self-contained HTML page: both accuracies, the dishes, and every picture with its question and both answers."""
    cards = '\n'.join(_card(row) for row in results['answers'])
    dishes = '\n'.join(_dish(name, own) for name, own in results['dishes'].items())
    total = sum(seconds.values())
    phases = ' · '.join(f'{html.escape(name)} {value:.0f} s' for name, value in seconds.items())
    return _PAGE.format(
        style=_STYLE,
        n=results['n'],
        before=_bar('before fine-tuning', results['before'], 'bad'),
        after=_bar('after fine-tuning', results['after'], 'good'),
        dishes=dishes,
        cards=cards,
        phases=f'{phases} · {total:.0f} s in all',
    )


def _bar(name: str, value: float, kind: str) -> str:
    return (
        f'<div class="bar"><span class="name">{name}</span><span class="track"><i class="{kind}" '
        f'style="width:{max(value, 0.004):.1%}"></i></span><b>{value:.0%}</b></div>'
    )


def _dish(name: str, own: Mapping[str, Any]) -> str:
    return (
        f'<tr><td lang="zh">{html.escape(name)}</td><td>{html.escape(own["english"])}</td>'
        f'<td class="{_kind(own["before"] >= 0.9)}">{html.escape(own["said_before"])}</td>'
        f'<td class="num">{own["before"]:.0%}</td><td class="num {_kind(own["after"] >= 0.9)}">{own["after"]:.0%}</td></tr>'
    )


def _card(row: Mapping[str, Any]) -> str:
    data = base64.b64encode(Path(row['image']).read_bytes()).decode()
    kind = 'png' if str(row['image']).endswith('.png') else 'jpeg'
    return (
        f'<figure><img loading="lazy" alt="{html.escape(row["expected"])}" src="data:image/{kind};base64,{data}">'
        f'<figcaption><p class="q">{html.escape(row["question"])}</p>'
        f'{_answer("before", row["before"], row["right_before"])}{_answer("after", row["after"], row["right_after"])}'
        f'<p class="truth">{html.escape(row["expected"])}</p></figcaption></figure>'
    )


def _answer(when: str, text: str, right: bool) -> str:
    mark = '✓' if right else '✗'
    return f'<p class="{_kind(right)}"><small>{when}</small> {html.escape(text) or "<em>nothing</em>"} <b>{mark}</b></p>'


def _kind(right: bool) -> str:
    return 'good' if right else 'bad'


_STYLE = """
:root{color-scheme:light dark;--bg:#faf7f2;--card:#fff;--ink:#2a2522;--soft:#8b817a;--line:#e9e1d8;--good:#23834b;--bad:#c2402d}
@media(prefers-color-scheme:dark){:root{--bg:#191614;--card:#24201d;--ink:#efe9e3;--soft:#9d938b;--line:#38322d;
--good:#5cc98a;--bad:#f0806c}}
*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI","PingFang SC","Noto Sans CJK SC","Microsoft YaHei",sans-serif}
main{max-width:1180px;margin:0 auto;padding:32px 20px 60px}h1{font-size:clamp(1.5rem,4vw,2.3rem);margin:0 0 4px;line-height:1.2}
h2{margin:36px 0 12px;font-size:1.15rem}.lead{color:var(--soft);margin:0 0 22px;max-width:62ch}
.bars{background:var(--card);border:1px solid var(--line);border-radius:14px;padding:18px 20px}
.bar{display:grid;grid-template-columns:10.5em 1fr 3.4em;align-items:center;gap:14px;margin:6px 0}
.bar b{text-align:right;font-size:1.35rem;font-variant-numeric:tabular-nums}
.track{background:var(--line);border-radius:99px;height:18px;overflow:hidden}.track i{display:block;height:100%;border-radius:99px}
i.good{background:var(--good)}i.bad{background:var(--bad)}.good{color:var(--good)}.bad{color:var(--bad)}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;background:var(--card);border-radius:14px;overflow:hidden}
th,td{padding:8px 14px;text-align:left;border-bottom:1px solid var(--line)}th{color:var(--soft);font-weight:500;font-size:.86rem}
.num{text-align:right;font-variant-numeric:tabular-nums}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(210px,1fr));gap:16px}
figure{margin:0;background:var(--card);border:1px solid var(--line);border-radius:14px;overflow:hidden}
figure img{display:block;width:100%;aspect-ratio:4/3;object-fit:cover}figcaption{padding:10px 14px 12px}
figcaption p{margin:2px 0}.q{font-weight:600;margin-bottom:6px}small{display:inline-block;width:3.6em;color:var(--soft)}
.truth{color:var(--soft);font-size:.84rem;border-top:1px solid var(--line);margin-top:8px;padding-top:6px}
footer{color:var(--soft);font-size:.86rem;margin-top:36px}
@media(max-width:560px){.bar{grid-template-columns:1fr 3.4em}.bar .name{grid-column:1/-1;margin-bottom:-8px}
.grid{grid-template-columns:repeat(2,1fr);gap:10px}figcaption{padding:8px 10px;font-size:.9rem}th,td{padding:7px 9px}}
"""

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>mmft demo: what dish is this?</title><style>{style}</style></head><body><main>
<h1>What dish is this? <span lang="zh">这是什么菜？</span></h1>
<p class="lead">A small InternVL2 was asked {n} questions about pictures it has never seen: before fine-tuning, when it knew
tableware, colours, shapes and a few other dishes, and after a LoRA fine-tune, export and reload. Every answer below was
generated by the model.</p>
<section class="bars">{before}{after}</section>
<h2>Dish by dish</h2><div class="scroll"><table><thead><tr><th>dish</th><th></th><th>was mostly called</th><th class="num">before</th>
<th class="num">after</th></tr></thead><tbody>
{dishes}
</tbody></table></div>
<h2>Every held-out picture</h2><section class="grid">
{cards}
</section><footer>{phases}</footer></main></body></html>
"""
