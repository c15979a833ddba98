"""mmft data codalm on a made-up copy of CODA2022's pictures and CODA-LM's files."""

from __future__ import annotations

import json

import pytest
from PIL import Image

BOTH = 'description and explanation'


def scene(regions=('1', '2')):
    return {
        'general_perception': {
            'vehicles': [{'description': 'A white van', 'explanation': 'It may turn.'}],
            'traffic cones': [],
            BOTH: 'There is a white van, which may turn.',
        },
        'region_perception': {
            key: {BOTH: f'Region {key} is a cone.', 'box': [4.0, 5.0, 10.0, 8.0], 'category_name': 'traffic cone'}
            for key in regions
        },
        'driving_suggestion': 'Slow down.',
    }


@pytest.fixture
def root(kit, tmp_path):
    root = tmp_path / 'coda'
    for source, split, count in (('val', 'Train', 3), ('test', 'Val', 2), ('test', 'Mini', 1)):
        for n in range(1, count + 1):
            kit.picture(root / source / 'images' / f'{n:04d}.jpg', (60, 40), (90, 90, 90))
            kit.dump(root / 'CODA-LM' / split / f'{source}_{n:04d}.json', scene())
    (root / 'CODA-LM' / 'Train' / 'vqa_anno').mkdir()
    return root


def red(path):
    pixels = Image.open(path).convert('RGB')
    return pixels.getpixel((9, 5))[0] > 150


def test_three_tasks(kit, root):
    printed = kit.convert('codalm', root, '--draw')
    train, val = (kit.lines(root / 'CODA-LM' / f'{part}.jsonl') for part in ('train', 'val'))
    assert (len(train), len(val)) == (3 * 4, 2 * 4)
    by_task = {r['task']: r for r in train[:4]}
    assert by_task['general']['conversations'][1]['value'] == 'There is a white van, which may turn.'
    assert by_task['general']['conversations'][0]['value'].startswith('<image>\nThere is an image of traffic')
    assert by_task['suggestion']['conversations'][1]['value'] == 'Slow down.'
    assert by_task['suggestion']['image'] == 'val/images/0001.jpg'
    assert by_task['regional']['image'] == 'val/images_w_boxes/0001_object_2.jpg'
    assert by_task['regional']['category'] == 'traffic cone'
    assert val[0]['image'] == 'test/images/0001.jpg'
    assert red(root / 'val/images_w_boxes/0001_object_1.jpg')
    assert not red(root / 'val/images/0001.jpg')
    assert 'changed: 10 (pictures drawn with a red box)' in printed
    assert len(kit.reads(root / 'CODA-LM' / 'train.jsonl', root)) == 12
    assert 'changed' not in kit.convert('codalm', root)  # they are there now
    assert [r['task'] for r in train[:4]] == ['general', 'suggestion', 'regional', 'regional']


@pytest.mark.parametrize('folder', ['images_w_boxes', 'images_w_bboxes'])
def test_both_names_of_the_folder_with_boxes(kit, root, tmp_path, folder):
    for n in (1, 2, 3):
        for key in (1, 2):
            kit.picture(root / 'val' / folder / f'{n:04d}_object_{key}.jpg', (60, 40))
    kit.convert('codalm', root, tmp_path / 'o', '--split', 'Train', '--task', 'regional')
    records = kit.lines(tmp_path / 'o' / 'train.jsonl')
    assert {r['image'].split('/')[1] for r in records} == {folder}


def test_chinese(kit, root, tmp_path):
    (root / 'CODA-LM').rename(root / 'CODA-LM-chinese')
    arguments = ['--annotations', 'CODA-LM-chinese', '--language', 'zh', '--task', 'general']
    kit.convert('codalm', root, tmp_path / 'o', *arguments, '--split', 'Mini')
    (record,) = kit.lines(tmp_path / 'o' / 'mini.jsonl')
    assert '自车视角' in record['conversations'][0]['value']
    assert 'CODA-LM: no such folder' not in kit.convert('codalm', root, tmp_path / 'p', status=1)


def _edit(change, name='val_0002.json'):
    def act(root):
        file = root / 'CODA-LM' / 'Train' / name
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))

    return act


def _region(**changes):
    return _edit(lambda c: c['region_perception']['2'].update(changes))


@pytest.mark.parametrize(
    ('damage', 'words', 'reason', 'left'),
    [
        (_region(box=[1, 2, 3]), 'region 2: `box` is [1, 2, 3]', 'Train: bad regions', 11),
        (_region(box=[90, 2, 3, 4]), 'inside 60 x 40 px', 'Train: bad regions', 11),
        (_region(category_name=None), '`category_name` is None', 'Train: bad regions', 11),
        (_region(**{BOTH: ''}), f'`{BOTH}` is ', 'Train: bad regions', 11),
        (_edit(lambda c: c.pop('driving_suggestion')), '`driving_suggestion` is None', 'Train: bad suggestion', 11),
        (_edit(lambda c: c.update(general_perception={})), 'no objects', 'Train: bad general', 11),
        (lambda r: (r / 'CODA-LM/Train/val_0002.json').write_text('{'), 'invalid JSON', 'Train: bad files', 8),
        (lambda r: (r / 'val/images/0002.jpg').unlink(), 'no such picture', 'Train: bad files', 8),
        (
            lambda r: (r / 'CODA-LM/Train/val_0002.json').rename(r / 'CODA-LM/Train/scene2.json'),
            "the name 'scene2.json'",
            'Train: bad files',
            8,
        ),
    ],
)
def test_bad_files_stop_it_or_are_counted(kit, root, tmp_path, damage, words, reason, left):
    kit.convert('codalm', root, tmp_path / 'first', '--draw')
    damage(root)
    error = kit.convert('codalm', root, tmp_path / 'o', '--split', 'Train', status=1)
    assert words in error
    assert error.count('--on-error skip') == 1
    assert '.json' in error
    assert not (tmp_path / 'o').exists()
    printed = kit.convert('codalm', root, tmp_path / 'o', '--split', 'Train', '--on-error', 'skip')
    assert f'left out: 1 ({reason})' in printed
    assert len(kit.lines(tmp_path / 'o' / 'train.jsonl')) == left


def test_no_boxes_no_layout(kit, root, tmp_path):
    assert '--draw makes it' in kit.convert('codalm', root, status=1)
    error = kit.convert('codalm', root / 'CODA-LM', status=1)
    assert 'beside val/images and test/images' in error
    assert 'Mini' in error
    assert 'not there' in kit.convert('codalm', root, '--split', 'Test', status=1)
    with pytest.raises(SystemExit):
        kit.convert('codalm', root, '--split', 'train')


def test_answers_put_together_where_the_summary_is_missing(kit, root, tmp_path):
    _edit(lambda c: c['general_perception'].pop(BOTH))(root)
    printed = kit.convert('codalm', root, tmp_path / 'o', '--task', 'general')
    assert 'changed: 1 (Train: general answers put together from the objects)' in printed
    assert kit.lines(tmp_path / 'o' / 'train.jsonl')[1]['conversations'][1]['value'] == 'A white van It may turn.'
