"""The split of a FoodieQA release: whole questions, each task's share, and what is left out is named."""

from __future__ import annotations

import json
import random

import pytest
from PIL import Image

from mmft.cli.converters.common import show
from mmft.data.convert.foodieqa import convert
from mmft.errors import DataError


def make(root, pictures, multi, text, group=None):
    """A release with a single question for two of three pictures, and multi questions that tie them all together."""
    rng = random.Random(0)
    (root / 'images').mkdir(parents=True)
    for n in range(pictures):
        Image.new('RGB', (4, 3)).save(root / 'images' / f'{n}.png')
    common = {'question': '?', 'question_en': '?', 'choices': ['a', 'b'], 'choices_en': ['a', 'b'], 'answer': '1'}
    singles = [
        {**common, 'question_id': f's{n}', 'food_name': f'dish{n}', 'food_meta': {'food_file': f'images/{n}.png'}}
        for n in range(pictures)
        if n % 3
    ]
    group = group or pictures
    multis = []
    for n in range(multi):
        first = group * rng.randrange(pictures // group)
        chosen = rng.sample(range(first, first + group), 4)
        multis.append({**common, 'question_id': f'm{n}', 'images': [f'images/{p}.png' for p in chosen]})
    texts = [{**common, 'question_id': f't{n}', 'food_name': f'dish{rng.randrange(pictures)}'} for n in range(text)]
    for name, records in (('sivqa', singles), ('mivqa', multis), ('textqa', texts)):
        (root / f'{name}_tidy.json').write_text(json.dumps(records))
    return root


def read(path):
    return [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()]


def shares(records):
    return {task: sum(r['task'] == task for r in records) for task in ('single', 'multi', 'text', 'name')}


def seen(records):
    """Pictures, dishes, and the numbers that questions have in all languages."""
    images = [r.get('image', []) for r in records]
    pictures = {p for found in images for p in ([found] if isinstance(found, str) else found)}
    questions = {r['id'].rpartition('/')[0] for r in records}
    return pictures | questions | {r['dish'] for r in records if 'dish' in r}


@pytest.mark.parametrize('seed', [0, 1])
def test_val_has_its_share_of_every_task_though_all_pictures_hang_together(seed, tmp_path, capsys):
    root = make(tmp_path / 'release', pictures=120, multi=100, text=150)
    report = convert(root, tmp_path / 'out', languages=('zh', 'en'), val=0.2, seed=seed)
    train, val = (read(tmp_path / 'out' / f'{part}.jsonl') for part in ('train', 'val'))
    assert seen(train).isdisjoint(seen(val))
    total = {'single': 160, 'multi': 200, 'text': 300, 'name': 80}
    there = shares(val)
    for task in ('single', 'text', 'name'):
        assert there[task] == pytest.approx(0.2 * total[task], rel=0.2)
    assert there['multi'] >= 0.5 * 0.2 * total['multi']
    left = report['left_out']['multi: pictures on both sides of the split']
    assert shares(train)['multi'] + there['multi'] + left == 200
    assert report['warnings'] == []
    assert json.loads((tmp_path / 'out' / 'report.json').read_text()) == report
    show(report)
    assert f'left out: {left} (multi: pictures on both sides of the split)' in capsys.readouterr().out


def test_pictures_in_groups_lose_few_questions(tmp_path):
    root = make(tmp_path / 'release', pictures=120, multi=100, text=150, group=12)
    report = convert(root, tmp_path / 'out', val=0.2)
    assert report['counts']['val']['multi/zh'] == pytest.approx(20, abs=4)
    assert sum(report['left_out'].values()) <= 10


def test_a_task_that_cannot_have_its_share_is_warned_about(tmp_path, capsys):
    root = make(tmp_path / 'release', pictures=12, multi=9, text=12)
    report = convert(root, tmp_path / 'out', languages=('zh', 'en'), val=0.1)
    assert report['counts']['val']['single/zh'] == report['counts']['val']['name/zh'] == 1
    assert [w.partition(',')[0] for w in report['warnings']] == ['val has 0 of 18 questions of multi']
    show(report)
    assert 'warning: val has 0 of 18 questions of multi' in capsys.readouterr().err


def test_left_out_records_are_named_and_an_earlier_result_outlives_a_failure(tmp_path):
    root, out = make(tmp_path / 'release', pictures=12, multi=9, text=12), tmp_path / 'out'
    convert(root, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert before.keys() == {'train.jsonl', 'val.jsonl', 'report.json'}
    broken = json.loads((root / 'sivqa_tidy.json').read_text())
    broken[2]['answer'] = '7'
    (root / 'sivqa_tidy.json').write_text(json.dumps(broken))
    with pytest.raises(DataError, match="`answer` is '7'"):
        convert(root, out)
    (root / 'textqa_tidy.json').rename(tmp_path / 'textqa_tidy.json')
    (root / 'textqa_tidy.json').write_text('[{')
    with pytest.raises(DataError, match='invalid JSON'):
        convert(root, out, on_error='skip')
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before

    (tmp_path / 'textqa_tidy.json').rename(root / 'textqa_tidy.json')
    report = convert(root, out, on_error='skip')
    named = read(out / 'left_out.jsonl')
    assert [(line['file'], line['reason']) for line in named] == [
        (str(root / 'sivqa_tidy.json'), 'single: bad records')
    ]
    assert "`answer` is '7'" in named[0]['error']
    assert report['left_out']['single: bad records'] == 1
