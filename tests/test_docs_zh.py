"""The Chinese pages say what the English ones say: the same headings, code blocks, tables and links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / 'docs'
PAGES = ('quickstart', 'data', 'recipes', 'evaluation', 'migrate')


def code_blocks(text: str) -> list[str]:
    return re.findall(r'^```.*?^```$', text, re.DOTALL | re.MULTILINE)


def headings(text: str) -> list[str]:
    """The level of every heading, and the code in it, in order."""
    plain = re.sub(r'^```.*?^```$', '', text, flags=re.DOTALL | re.MULTILINE)
    found = re.findall(r'^(#+) (.*)$', plain, re.MULTILINE)
    return [f'{level} {" ".join(re.findall(r"`[^`]+`", heading))}'.strip() for level, heading in found]


def tables(text: str) -> list[list[tuple[int, list[str]]]]:
    """Of each row of each table: the number of cells, and the first cell's code."""
    found = re.findall(r'(?:^\|.*\|$\n?)+', text, re.MULTILINE)
    rows = [[re.split(r'(?<!\\)\|', line)[1:-1] for line in table.splitlines()] for table in found]
    return [[(len(cells), re.findall(r'`[^`]+`', cells[0])) for cells in table] for table in rows]


@pytest.mark.parametrize('name', PAGES)
@pytest.mark.parametrize('part', [headings, code_blocks, tables], ids=lambda part: part.__name__)
def test_the_chinese_page_has_what_the_english_one_has(name, part):
    english, chinese = (path.read_text(encoding='utf-8') for path in (DOCS / f'{name}.md', DOCS / 'zh' / f'{name}.md'))
    assert part(chinese) == part(english)


@pytest.mark.parametrize('name', PAGES)
def test_it_is_chinese(name):
    text = (DOCS / 'zh' / f'{name}.md').read_text(encoding='utf-8')
    prose = re.sub(r'^```.*?^```$|`[^`\n]+`|\[[^]]*\]\([^)]*\)|^\|.*$', '', text, flags=re.DOTALL | re.MULTILINE)
    for paragraph in re.split(r'\n\s*\n', prose):
        if len(re.findall(r'[A-Za-z]{2,}', paragraph)) > 3:
            assert re.search('[\u4e00-\u9fff]', paragraph), paragraph


LINK = re.compile(r'(?<!!)\[[^]]*\]\(([^)#\s]+)(?:#[^)]*)?\)')
TEXTS = [*DOCS.rglob('*.md'), *DOCS.parent.glob('*.md')]


@pytest.mark.parametrize('path', TEXTS, ids=lambda path: str(path.relative_to(DOCS.parent)))
def test_links_lead_somewhere(path):
    for target in LINK.findall(path.read_text(encoding='utf-8')):
        if not re.match(r'\w+:', target):
            assert (path.parent / target).exists(), target
