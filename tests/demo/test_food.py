"""The pictures: deterministic, varied, split without overlap, readable by the real dataset reader."""

from __future__ import annotations

import json

import numpy as np
import pytest
from demo_food.drawing.dishes import DISHES
from demo_food.drawing.everyday import KNOWN
from demo_food.food import SIZES, SPLITS, Plan, draw, prepare
from demo_food.questions import ENGLISH
from PIL import Image

from mmft.data import ChatDataset
from mmft.errors import DataError

SMALL = Plan(words=3, stills=8, known=1, train=2, val=1, heldout=1)


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp('demo_food')
    assert prepare(root, SMALL, workers=1)
    return root


def records(root, split):
    return [json.loads(line) for line in (root / f'{split}.jsonl').read_text(encoding='utf-8').splitlines()]


@pytest.mark.parametrize('dish', DISHES)
def test_the_same_seed_draws_the_same_picture_and_another_another(dish):
    first, turns, language = draw(1, 'train', 0, dish)
    again, turns_again, _ = draw(1, 'train', 0, dish)
    other = draw(2, 'train', 0, dish)[0]
    assert first.tobytes() == again.tobytes()
    assert turns == turns_again
    assert first.size != other.size or first.tobytes() != other.tobytes()
    assert turns[0][1] == (dish if language == 'zh' else ENGLISH[dish])


@pytest.mark.parametrize('dish', DISHES)
def test_a_dish_varies_and_fills_its_picture(dish):
    drawn = [draw(5, 'train', number, dish)[0] for number in range(6)]
    assert len({image.size for image in drawn}) > 1
    thumbs = np.stack([np.asarray(image.resize((16, 16)), np.float32) for image in drawn])
    assert thumbs.std(axis=0).mean() > 8  # colours, poses and backgrounds differ from picture to picture
    assert thumbs.std(axis=(1, 2)).mean() > 15  # and no picture is one flat colour


def test_splits_share_no_picture():
    seen = [{draw(3, split, number, '月饼')[0].tobytes() for number in range(4)} for split in SPLITS[1:]]
    assert sum(map(len, seen)) == len(set().union(*seen)) == 12


def test_the_base_split_has_none_of_the_ten_dishes():
    assert len(DISHES) >= 8
    assert not set(DISHES) & set(KNOWN)
    assert {subject for _, subject in SMALL.jobs('base')} == {'', *KNOWN}


def test_files_are_read_by_the_real_reader(pictures):
    for split, pictured in (('base', 14), ('train', 20), ('val', 10), ('heldout', 10)):
        dataset = ChatDataset(pictures / f'{split}.jsonl', image_root=pictures)
        assert len(dataset) == pictured + (SMALL.words if split == 'base' else 0)
        for record in records(pictures, split):
            if 'image' in record:
                with Image.open(pictures / record['image']) as image:
                    scale = 2 if split in ('base', 'train') else 1  # the many are drawn at half the size
                    assert image.size in {(w // scale, h // scale) for w, h in SIZES}
                    assert image.format == 'JPEG'


def test_both_languages_are_asked_about_every_dish_in_varied_words(pictures):
    train = records(pictures, 'train')
    assert {(r['dish'], r['language']) for r in train} == {(dish, lang) for dish in DISHES for lang in ('zh', 'en')}
    assert len({r['conversations'][0]['value'] for r in train}) > 6


def test_a_base_conversation_names_no_new_dish_over_a_picture(pictures):
    for record in records(pictures, 'base'):
        answers = {turn['value'] for turn in record['conversations'] if turn['from'] == 'gpt'}
        if 'image' in record:
            assert not answers & {*DISHES, *(ENGLISH[dish] for dish in DISHES)}


def test_pictures_are_kept_only_if_they_are_the_same_set(pictures):
    assert not prepare(pictures, SMALL, workers=1)
    (pictures / 'stamp.txt').write_text('another')
    before = (pictures / 'images/train/00000.jpg').read_bytes()
    (pictures / 'images/train/00000.jpg').write_bytes(b'damaged')
    assert prepare(pictures, SMALL, workers=1)
    assert (pictures / 'images/train/00000.jpg').read_bytes() == before


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / 'images').mkdir()
    with pytest.raises(DataError, match='not empty'):
        prepare(tmp_path, SMALL, workers=1)
    assert (tmp_path / 'images').is_dir()
