"""A survey as one HTML file: problems, histograms, answers, and samples with their tiles and their label mask."""

from __future__ import annotations

import html
import io
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from mmft import pages
from mmft.data.check.report import Histogram, different_answers, histogram, span, too_long
from mmft.data.check.survey import CheckedFile, Survey
from mmft.data.pictures.tilers import AnyResTiler
from mmft.data.text.label_mask import describe
from mmft.errors import DataError
from mmft.pages import both
from mmft.structures import IGNORE_INDEX, Sample
from mmft.words import count_of, printable

__all__ = ['choose', 'page']

_TILE = 150  # px of a tile on the page, at most
_PLACES = 30
_UNFOLDED = 10  # as many places of a problem, or fewer, are shown at once
_NO_CARDS = ('There is no encoder (give a config), or no good record.', '没有编码器（请给出配置），或没有可用的记录。')
_WHY = {
    'the most tokens': '词元最多',
    'the most tiles': '图块最多',
    'the most pictures': '图片最多',
    'the fewest tokens': '词元最少',
    'chosen at random': '随机选取',
}


def page(survey: Survey, title: str, allow: Sequence[str] = (), samples: int = 12, seed: int = 0) -> str:
    """The page. It holds its pictures and needs nothing else.

    Args:
        survey: what ``survey`` found.
        title: what was checked.
        allow: kinds of problems that count as allowed.
        samples: how many are shown.
        seed: of those that are chosen at random.
    """
    tokens, tiles = (
        histogram([n for part in survey.parts for n in getattr(part, name)]) for name in ('tokens', 'tiles')
    )
    cards = [_card(part, i, why) for part, i, why in choose(survey, samples, seed)]
    made = pages.render(
        Path(__file__).parent / 'page.html',
        f'data check: {title}',
        name=html.escape(title),
        verdict=_verdict(survey, allow),
        files=''.join(_file_row(part, allow) for part in survey.parts),
        problems=''.join(_group(group, allow) for group in survey.groups)
        or f'<p class="soft">{both("None.", "没有。")}</p>',
        charts=''.join(
            [
                _chart(('tokens', '词元'), tokens, survey.max_length, _limit_note(survey)),
                _chart(('tiles', '图块'), tiles, None, ''),
            ]
        ),
        answers=''.join(_answers(survey)),
        cards=''.join(cards) or f'<p class="soft">{both(*_NO_CARDS)}</p>',
    )
    return printable(made)  # half surrogates of paths, which no file can hold, and marks that turn the text around


def choose(survey: Survey, count: int, seed: int = 0) -> list[tuple[CheckedFile, int, str]]:
    """Which records to show, and why: the longest, the most tiles and pictures, one of each frequent answer, others."""
    rows = [
        (part, i)
        for part in survey.parts
        if part.subset is not None and part.subset.encoder is not None
        for i in range(len(part))
        if part.sound[i]
    ]
    if not rows:
        return []
    chosen: dict[tuple[int, int], tuple[CheckedFile, int, str]] = {}

    def take(row: tuple[CheckedFile, int], why: str) -> None:
        if len(chosen) < count:
            chosen.setdefault((id(row[0]), row[1]), (*row, why))

    take(max(rows, key=lambda row: row[0].tokens[row[1]]), 'the most tokens')
    take(max(rows, key=lambda row: row[0].tiles[row[1]]), 'the most tiles')
    take(max(rows, key=lambda row: row[0].pictures[row[1]]), 'the most pictures')
    take(min(rows, key=lambda row: row[0].tokens[row[1]]), 'the fewest tokens')
    for row in random.Random(seed).sample(rows, min(len(rows), count)):
        take(row, 'chosen at random')
    return list(chosen.values())


def _verdict(survey: Survey, allow: Sequence[str]) -> str:
    problems, records, good = survey.problems(allow), survey.records(), survey.good(allow)
    what = both(count_of(problems, 'problem') if problems else 'no problems', f'{problems:,} 个问题')
    place = both(f'in {count_of(records - good, "record")}', f'涉及 {records - good:,} 条记录')
    where = f'<span>{place}</span>' if records - good else ''
    boxes = [
        f'<div class="fact {"bad" if problems else "good"}"><b>{what}</b>{where}</div>',
        f'<div class="fact"><b>{records:,}</b><span>{_records(records)}</span></div>',
        f'<div class="fact"><b>{good:,}</b><span>{both("without a problem", "没有问题")}</span></div>',
    ]
    return ''.join(boxes)


def _records(count: int) -> str:
    return both('record' if count == 1 else 'records', '条记录')


def _file_row(part: CheckedFile, allow: Sequence[str]) -> str:
    name = f' <span class="soft">{html.escape(part.name)}</span>' if part.name else ''
    return (
        f'<tr><td>{html.escape(part.part)}</td><td><code>{html.escape(part.file)}</code>{name}</td>'
        f'<td class="num">{len(part):,} <span class="unit">{_records(len(part))}</span></td><td class="num">'
        f'{part.good(allow):,} <span class="unit">{both("without a problem", "没有问题")}</span></td></tr>'
    )


def _group(group: Any, allow: Sequence[str]) -> str:
    places = ''.join(
        f'<li><code>{html.escape(file)}{"" if line is None else f":{line}"}</code> '
        f'{html.escape(what) if what != group.what else ""}</li>'
        for _, file, line, what in group.places[:_PLACES]
    )
    more = len(group.places) - _PLACES
    others = both(f'and {more:,} more, see --json', f'另有 {more:,} 处，见 --json')
    rest = f'<li class="soft">{others}</li>' if more > 0 else ''
    unfolded = ' open' if len(group.places) <= _UNFOLDED else ''
    parts = [(both('expected', '应为'), group.expected), (both('to do', '处理'), group.fix)]
    advice = ''.join(f'<p><small>{name}</small> {html.escape(text)}</p>' for name, text in parts if text)
    allowed = f' <span class="soft">{both("(allowed)", "（已允许）")}</span>' if group.kind in allow else ''
    allowed = f' <span class="soft">{both("(a note)", "（提示）")}</span>' if group.note else allowed
    return (
        f'<details class="problem"{unfolded}><summary><b class="count">{len(group.places):,}</b> '
        f'<span class="kind">{html.escape(group.kind)}</span> {html.escape(group.what)}{allowed}</summary>'
        f'{advice}<ul>{places}{rest}</ul></details>'
    )


def _limit_note(survey: Survey) -> str:
    over = too_long(survey)
    if over is None:
        return ''
    limit = f'max_length = {survey.max_length:,}'
    return both(f' · {over:,} longer than {limit}', f' · {over:,} 条超过 {limit}')


def _chart(names: tuple[str, str], made: Histogram | None, limit: int | None, note: str) -> str:
    """Columns as SVG: 640 x 200 units, the axis at 170."""
    if made is None:
        return ''
    rows, most = made.rows(), max(made.counts)
    width = min(620 / len(rows), 70)
    bars = []
    for n, (low, high, count) in enumerate(rows):
        size = max(150 * count / most, 2) if count else 0
        over = ' class="over"' if limit is not None and (made.high if high is None else low) > limit else ''
        label = span(low, high, ' to ')
        bars.append(
            f'<rect{over} x="{10 + n * width + 1:.1f}" y="{170 - size:.1f}" width="{max(width - 2, 1):.1f}" '
            f'height="{size:.1f}" rx="2"><title>{label}: {count:,}</title></rect>'
        )
    every = max(1, -(-len(rows) // 8))
    middle = width / 2 if made.step == 1 else 0
    ticks = ''.join(
        f'<text x="{10 + n * width + middle:.1f}" y="188">{low:,}{"+" if high is None else ""}</text>'
        for n, (low, high, _) in enumerate(rows)
        if high is None or (n % every == 0 and (not made.open or n + every < len(rows)))
    )
    facts = both(
        f'{span(made.low, made.high, " to ")} · median {made.median:,} · 95% at most {made.p95:,}',
        f'{span(made.low, made.high, " 至 ")} · 中位数 {made.median:,} · 95% 不超过 {made.p95:,}',
    )
    title = f'{names[0].capitalize()} of a record'
    return (
        f'<figure class="chart"><figcaption><b>{both(title, f"每条记录的{names[1]}数")}</b>'
        f'<span>{facts}{note}</span></figcaption><svg viewBox="0 0 640 196" role="img" aria-label="{title}">'
        f'<text class="top" x="10" y="13">{most:,}</text>{"".join(bars)}'
        f'<line x1="8" x2="632" y1="170.5" y2="170.5"/>{ticks}</svg></figure>'
    )


def _answers(survey: Survey) -> Iterator[str]:
    for name in dict.fromkeys(part.part for part in survey.parts):
        counts = sum((part.answers for part in survey.parts if part.part == name), type(survey.parts[0].answers)())
        total = counts.total()
        if not total:
            continue
        shown = counts.most_common(12)
        rows = ''.join(
            f'<tr><td>{html.escape(answer)}</td><td class="num">{count:,}</td><td class="share"><i '
            f'style="width:{count / total:.1%}"></i></td><td class="num">{count / total:.1%}</td></tr>'
            for answer, count in shown
        )
        rest = len(counts) - len(shown)
        words = both(f'and {count_of(rest, "other answer")}', f'另有 {rest:,} 种答案')
        more = f'<p class="soft">{words}</p>' if rest else ''
        many = any(part.many_answers for part in survey.parts if part.part == name)
        title = both(different_answers(len(counts), many), f'{len(counts):,}{"+" if many else ""} 种最后的回答')
        yield (
            f'<div class="block"><h3>{html.escape(name)}: {title}</h3>'
            f'<div class="scroll"><table>{rows}</table></div>{more}</div>'
        )


def _card(part: CheckedFile, i: int, why: str) -> str:
    place = f'{part.file}:{part.subset.file.line(i)}'
    head = f'<header><code>{html.escape(place)}</code><span class="soft">{both(why, _WHY[why])}</span></header>'
    try:
        sample = part.subset.encode(i)
    except DataError as error:  # the file was changed meanwhile, or pictures were not decoded before
        return f'<article>{head}<p class="bad">{html.escape(str(error))}</p></article>'
    encoder = part.subset.encoder
    trained = int((sample.labels != IGNORE_INDEX).sum())
    tiles = sum(sample.num_tiles)
    facts = both(
        f'{count_of(len(sample), "token")} · {trained:,} trained · {count_of(tiles, "tile")}',
        f'{len(sample):,} 个词元 · 训练 {trained:,} 个 · {tiles:,} 个图块',
    )
    pictures = ''.join(_picture(encoder, sample, n) for n in range(len(sample.num_tiles)))
    shown = f'<div class="pictures">{pictures}</div>' if pictures else ''
    mask = f'<div class="mask">{_mask(encoder, sample)}</div>'
    return f'<article>{head}<p class="facts">{facts}</p><div class="body">{shown}{mask}</div></article>'


def _picture(encoder: Any, sample: Sample, n: int) -> str:
    """The tiles of picture ``n`` as they lie in it, and the whole of it beside them where there is such a tile."""
    start, count = sum(sample.num_tiles[:n]), sample.num_tiles[n]
    tiles = [_image(tile) for tile in sample.pixel_values[start : start + count]]
    each = encoder.image_processor.share(len(sample.num_tiles))
    size = sample.image_sizes[n]
    columns, rows = encoder.image_processor.grid(*size, each)
    whole = []
    if columns * rows and len(tiles) == columns * rows + 1:
        # LLaVA shows the whole picture first, InternVL last.
        first = isinstance(encoder.image_processor, AnyResTiler)
        whole, tiles = (tiles[:1], tiles[1:]) if first else (tiles[-1:], tiles[:-1])
    else:
        columns = columns or 1
    side = max(48, min(_TILE, 340 // columns))
    grid = f'<div class="tiles" style="grid-template-columns:repeat({columns},{side}px)">{"".join(tiles)}</div>'
    extra = f'<div class="whole">{"".join(whole)}<small>{both("whole", "整图")}</small></div>' if whole else ''
    shape = f'{columns} x {rows}' + (' + whole' if whole else '') if len(tiles) > 1 or whole else '1 tile'
    return f'<figure>{grid}{extra}<figcaption>{size[0]} x {size[1]} px → {shape}</figcaption></figure>'


def _image(tile: Any) -> str:
    picture = Image.fromarray(tile.permute(1, 2, 0).numpy())
    if picture.width > 2 * _TILE:
        picture = picture.resize((2 * _TILE, 2 * _TILE), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    picture.save(data, format='JPEG', quality=82)
    return f'<span class="tile">{pages.image_tag(data.getvalue(), "tile")}</span>'


def _picture_tokens(count: int) -> str:
    return both(count_of(count, 'picture token'), f'{count:,} 个图片词元')


def _mask(encoder: Any, sample: Sample) -> str:
    tokenizer = encoder.tokenizer
    image = re.escape(tokenizer.convert_ids_to_tokens(encoder.image_token_id))
    special = sorted({*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}, key=len, reverse=True)
    tokens = '|'.join(map(re.escape, special)) or '(?!)'
    pattern = re.compile(rf'{image}x(?P<count>\d+)|(?P<token>{tokens})|(?P<line>\n)')

    def mark(match: re.Match[str]) -> str:
        if match['count']:
            return f'<span class="picture">{_picture_tokens(int(match["count"]))}</span>'
        if match['line']:
            return '<span class="line">↵</span>\n'
        return f'<span class="token">{html.escape(match["token"])}</span>'

    pieces = []
    for text, trained in describe(tokenizer, sample, encoder.image_token_id):
        shown, at = [], 0
        for match in pattern.finditer(text):
            shown += [html.escape(text[at : match.start()]), mark(match)]
            at = match.end()
        shown.append(html.escape(text[at:]))
        pieces.append(f'<{"mark" if trained else "span"}>{"".join(shown)}</{"mark" if trained else "span"}>')
    return ''.join(pieces)
