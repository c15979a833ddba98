"""mmft/words.py: nothing that a stranger writes reaches the terminal as a command."""

from __future__ import annotations

import sys
import unicodedata

import pytest

from mmft.words import clipped, count_of, printable


@pytest.mark.parametrize('code', [*range(0x20), *range(0x7F, 0xA0), 0x200E, 0x2028, 0x202E, 0x2066, 0xFEFF, 0xD83D])
def test_control_characters_are_shown_not_sent(code):
    text = printable(f'a{chr(code)}b')
    if chr(code) in '\n\t':
        assert text == f'a{chr(code)}b'
    else:
        assert chr(code) not in text
        assert text.startswith('a\\')
        assert text.endswith('b')
    text.encode('utf-8')  # and every stream can take it


def test_ordinary_text_of_every_script_stays():
    text = 'café 肠粉 🍲 👩‍🍳 العربية हिन्दी\tx\ny'
    assert printable(text) == text


def test_no_other_control_character_or_half_surrogate_passes():
    characters = map(chr, range(sys.maxunicode + 1))
    left = [c for c in characters if unicodedata.category(c) in ('Cc', 'Cs') and printable(c) == c]
    assert left == ['\t', '\n']


def test_long_text_is_cut_and_says_how_long_it_was():
    assert clipped('x' * 13000, 10) == 'xxxxxxxxxx... (13,000 characters)'
    assert clipped('\x1b[2J') == '\\x1b[2J'


def test_nouns():
    assert count_of(2, 'epoch') == '2 epochs'
    assert count_of(1, 'batch', 'batches') == '1 batch'
