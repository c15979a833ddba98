"""Accuracies, the table and the page."""

from __future__ import annotations

import re

import pytest
from demo_food.exam import Item, grade
from demo_food.report import page, table
from demo_food.stages import INTERNVL2, LLAVA
from PIL import Image


@pytest.fixture
def results(tmp_path):
    for name in 'ab':
        Image.new('RGB', (8, 6), (200, 30, 30)).save(tmp_path / f'{name}.jpg')
    exam = [
        Item(tmp_path / 'a.jpg', '肠粉', 'zh', '这是什么菜？', '肠粉'),
        Item(tmp_path / 'b.jpg', '肠粉', 'en', 'What <dish> is this?', 'rice noodle rolls'),
        Item(tmp_path / 'a.jpg', '月饼', 'en', 'What dish is this?', 'mooncakes'),
    ]
    return grade(exam, ['叉烧', 'char siu', '<script>&'], ['肠粉', 'rice noodle rolls', 'egg tarts'])


def test_accuracy_is_exact_match(results):
    assert (results['before'], results['after'], results['n']) == (0.0, 0.6667, 3)
    assert results['dishes']['肠粉'] == {
        'english': 'rice noodle rolls', 'before': 0.0, 'after': 1.0, 'n': 2,
        'said_before': {'zh': '叉烧', 'en': 'char siu'}, 'said_after': {'zh': '肠粉', 'en': 'rice noodle rolls'},
    }  # fmt: skip
    assert results['languages']['en']['after'] == 0.5
    assert [row['right_after'] for row in results['answers']] == [True, True, False]


def test_answers_must_not_be_fewer_than_questions(results):
    with pytest.raises(ValueError, match='zip'):
        grade([Item('a.jpg', '肠粉', 'zh', '?', '肠粉')], [], ['肠粉'])


def test_table_lines_up_whatever_the_script(results):
    text = table(results)
    assert '\033' not in text
    assert '\033[32m' in table(results, color=True)
    row = next(line for line in text.splitlines() if line.startswith('肠粉'))
    assert row.split() == ['肠粉', 'rice', 'noodle', 'rolls', '叉烧', '/', 'char', 'siu', '0%', '100%']
    assert 'all 3 held-out questions' in text


def test_page_carries_pictures_questions_and_both_answers(results):
    text = page(results, {'draw': 1.0, 'base': 2.0}, INTERNVL2)
    assert text.count('data:image/jpeg;base64,') == 3
    assert '这是什么菜？' in text
    assert '叉烧' in text
    assert '&lt;script&gt;&amp;' in text
    assert 'What &lt;dish&gt; is this?' in text
    assert text.count('<script') == 1  # the frame's own
    assert not re.search(r'https?:', text)  # nothing is fetched
    assert '67%' in text
    assert '3 s in all' in text


def test_page_says_what_was_trained_and_how(results):
    internvl, llava = (page(results, {}, family) for family in (INTERNVL2, LLAVA))
    assert 'A small InternVL2 was asked 3 questions' in internvl
    assert 'after a LoRA fine-tune, export and reload' in internvl
    assert 'A small LLaVA was asked 3 questions' in llava
    assert LLAVA.between in llava
