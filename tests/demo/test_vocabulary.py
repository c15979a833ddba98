"""The shipped tokenizer: complete, reversible, and the one that its builder makes."""

from __future__ import annotations

import json

import pytest
from demo_food.questions import ENGLISH, all_texts
from demo_food.vocabulary import SPECIAL_TOKENS, TOKENIZER_DIR, build

from mmft.data import load_tokenizer


@pytest.fixture(scope='module')
def tokenizer():
    return load_tokenizer(TOKENIZER_DIR)


def test_special_tokens_are_single(tokenizer):
    for token in SPECIAL_TOKENS:
        assert tokenizer(token, add_special_tokens=False).input_ids == [tokenizer.convert_tokens_to_ids(token)]
    assert len({tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}) == 3


@pytest.mark.parametrize('text', [*all_texts()[::7], 'unheard-of words: 龘龘 ½ 🍜\n\ttab'])
def test_text_comes_back_as_it_was(tokenizer, text):
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text


def test_names_are_short(tokenizer):
    for chinese, english in ENGLISH.items():
        assert len(tokenizer(chinese, add_special_tokens=False).input_ids) <= 2
        assert len(tokenizer(english, add_special_tokens=False).input_ids) <= 4


def test_the_builder_makes_the_shipped_files(tmp_path):
    build(tmp_path)
    made, shipped = (json.loads((d / 'tokenizer.json').read_text()) for d in (tmp_path, TOKENIZER_DIR))
    assert made == shipped
