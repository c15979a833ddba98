"""mmft data folder: a folder per class."""

from __future__ import annotations

import json
import shutil
from collections import Counter

import pytest
from PIL import Image


@pytest.fixture
def root(tmp_path):
    """20 OK and 10 NG pictures, two of each box."""
    root = tmp_path / 'boxes'
    for kind, count in (('OK', 20), ('NG', 10)):
        (root / kind).mkdir(parents=True)
        for n in range(count):
            colour = (n * 9, 80 if kind == 'OK' else 200, 40)
            Image.new('RGB', (30, 20), colour).save(root / kind / f'box{n // 2 + (50 if kind == "NG" else 0)}_{n}.png')
    return root


def classes(records):
    return Counter(r['class'] for r in records)


def test_train_and_held_out(kit, root, tmp_path):
    out = tmp_path / 'out'
    printed = kit.convert(
        'folder', root, out, '--names', 'OK=合格', 'NG=不合格', '--wording', 'zh-inspection', '--val', '0.2'
    )
    train, val = kit.lines(out / 'train.jsonl'), kit.lines(out / 'val.jsonl')
    assert classes(train) == {'OK': 16, 'NG': 8}
    assert classes(val) == {'OK': 4, 'NG': 2}
    assert not {r['image'] for r in train} & {r['image'] for r in val}
    record = next(r for r in train if r['class'] == 'NG')
    assert record['conversations'][1]['value'] == '不合格'
    assert '不合格还是合格' in record['conversations'][0]['value']
    assert record['conversations'][0]['value'].startswith('<image>\n')
    assert len(kit.reads(out / 'train.jsonl', root)) == 24
    assert f"val: dataset=dict(ann_file='{out / 'val.jsonl'}', image_root='{root}')" in printed
    report = json.loads((out / 'report.json').read_text())
    assert report['counts']['val'] == {'NG': 2, 'OK': 4}
    assert report['classes'] == {'NG': '不合格', 'OK': '合格'}


def test_the_same_seed_gives_the_same_files(kit, root, tmp_path):
    written = []
    for seed in ('0', '0', '1'):
        kit.convert('folder', root, tmp_path / 'o', '--seed', seed)
        written.append((tmp_path / 'o' / 'val.jsonl').read_bytes())
    assert written[0] == written[1] != written[2]


def test_ten_pictures_leave_one_of_each_class_out(kit, tmp_path):
    for n in range(5):
        kit.picture(tmp_path / 's' / 'a' / f'{n}.jpg', colour=(n, 1, 1))
        kit.picture(tmp_path / 's' / 'b' / f'{n}.jpg', colour=(n, 200, 1))
    kit.convert('folder', tmp_path / 's')
    assert classes(kit.lines(tmp_path / 's' / 'val.jsonl')) == {'a': 1, 'b': 1}


def test_two_wordings_make_two_records_on_one_side(kit, root, tmp_path):
    kit.convert('folder', root, tmp_path, '--wording', 'zh', 'en')
    train, val = kit.lines(tmp_path / 'train.jsonl'), kit.lines(tmp_path / 'val.jsonl')
    assert len(train) + len(val) == 60
    assert not {r['image'] for r in train} & {r['image'] for r in val}
    assert len({r['id'] for r in train + val}) == 60


def test_own_wording(kit, root, tmp_path):
    file = kit.dump(
        tmp_path / 'w.json',
        {'questions': ['Ship it? {names}'], 'answers': {'OK': ['Yes.'], 'NG': ['No: {name}.']}, 'separator': '/'},
    )
    kit.convert('folder', root, tmp_path, '--wording', file, '--names', 'NG=faulty')
    records = kit.lines(tmp_path / 'train.jsonl')
    assert {r['conversations'][1]['value'] for r in records} == {'Yes.', 'No: faulty.'}
    assert records[0]['conversations'][0]['value'] == '<image>\nShip it? faulty/OK'


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        ({'questions': ['q'], 'answers': {'OK': ['y']}}, "answers for the classes ['OK']"),
        ({'questions': ['q'], 'answers': ['same']}, 'the same for all classes'),
        ({'questions': ['Is it {name}?']}, 'give the answer away'),
        ({'questions': ['{nmaes}?']}, "names ['nmaes']"),
        ({'question': ['q']}, 'expected: {"questions"'),
        ({'questions': []}, 'expected: {"questions"'),
        ('{"questions": [', 'invalid JSON'),
    ],
)
def test_wrong_wordings(kit, root, tmp_path, content, words):
    file = kit.dump(tmp_path / 'w.json', content)
    assert words in kit.convert('folder', root, tmp_path / 'o', '--wording', file, status=1)


def test_groups_stay_together(kit, root, tmp_path):
    kit.convert('folder', root, tmp_path, '--group', r'box(\d+)_', '--val', '0.3')
    boxes = [
        {r['image'].split('box')[1].split('_')[0] for r in kit.lines(tmp_path / f'{part}.jsonl')}
        for part in ('train', 'val')
    ]
    assert boxes[1]
    assert not boxes[0] & boxes[1]
    assert 'has no (...)' in kit.convert('folder', root, tmp_path, '--group', 'box', status=1)
    assert 'does not occur in' in kit.convert('folder', root, tmp_path, '--group', r'tray(\d+)', status=1)


def test_a_divided_source_stays_divided(kit, root, tmp_path):
    new = tmp_path / 'divided'
    shutil.copytree(root, new / 'train')
    for kind in ('OK', 'NG'):
        kit.picture(new / 'val' / kind / 'a.png', colour=(1, 2, 3 if kind == 'OK' else 4))
    kit.convert('folder', new)
    assert len(kit.lines(new / 'train.jsonl')) == 30
    assert [r['image'] for r in kit.lines(new / 'val.jsonl')] == ['val/NG/a.png', 'val/OK/a.png']
    shutil.copy(new / 'train' / 'OK' / 'box0_0.png', new / 'val' / 'OK')
    assert 'are the same picture' in kit.convert('folder', new, status=1)


def test_copies(kit, root, tmp_path):
    shutil.copy(root / 'OK' / 'box0_0.png', root / 'OK' / 'again.png')
    printed = kit.convert('folder', root, tmp_path / 'o')
    assert 'changed: 1 (copies of another picture of their class' in printed
    shutil.copy(root / 'OK' / 'box0_0.png', root / 'NG' / 'again.png')
    error = kit.convert('folder', root, tmp_path / 'o', status=1)
    assert 'NG/again.png and OK/again.png are the same picture' in error


def test_nothing_is_dropped_silently(kit, root, tmp_path):
    (root / 'OK' / 'notes.txt').write_text('x')
    (root / 'OK' / '.DS_Store').write_text('x')
    printed = kit.convert('folder', root, tmp_path / 'o')
    assert 'left out: 1 (no pictures by their ending: *.txt)' in printed
    assert 'left out: 1 (hidden files)' in printed
    (root / 'OK' / 'broken.png').write_bytes(b'')
    assert 'OK/broken.png: an empty file' in kit.convert('folder', root, tmp_path / 'p', status=1)
    assert not (tmp_path / 'p').exists()
    printed = kit.convert('folder', root, tmp_path / 'o', '--on-error', 'skip')
    assert 'left out: 1 (bad records)' in printed


def test_wrong_folders(kit, root, tmp_path):
    error = kit.convert('folder', root, '--classes', 'OK', status=1)
    assert "unknown class folders ['NG']" in error
    assert 'to do:' in error
    assert "no folder for the class ['SCRATCH']" in kit.convert(
        'folder', root, '--classes', 'OK', 'NG', 'SCRATCH', status=1
    )
    said = kit.convert('folder', root, '--names', 'ok=fine', status=1)
    assert "no folder for the class ['ok']" in said
    assert "did you mean 'OK'?" in said
    assert 'the folders that are there' in said
    assert 'NG, OK' in said
    wording = kit.convert('folder', root, '--wording', 'zh-inspction', status=1)
    assert '--wording zh-inspction' in wording
    assert 'zh-inspection' in wording
    assert 'ann_file' not in wording
    assert 'a folder per class' in kit.convert('folder', root / 'OK', status=1)
    assert 'no such folder' in kit.convert('folder', root / 'x', status=1)
    (root / 'empty').mkdir()
    assert 'no pictures in it' in kit.convert('folder', root, status=1)
    shutil.rmtree(root / 'empty')
    shutil.rmtree(root / 'NG')
    assert 'one class only' in kit.convert('folder', root, status=1)
