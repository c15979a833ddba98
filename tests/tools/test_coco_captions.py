"""mmft data coco_captions on made-up copies of COCO's and Karpathy's files."""

from __future__ import annotations

import pytest


@pytest.fixture
def root(kit, tmp_path):
    root = tmp_path / 'coco'
    for split in ('train', 'val'):
        images = [{'id': n, 'file_name': f'{n:012d}.jpg', 'height': 30, 'width': 40} for n in (1, 2)]
        captions = [
            {'image_id': 1, 'id': 1, 'caption': 'A bowl of rice. '},
            {'image_id': 2, 'id': 2, 'caption': 'Noodles\n'},
            {'image_id': 1, 'id': 3, 'caption': 'A bowl of white rice on a table.'},
            {'image_id': 1, 'id': 4, 'caption': 'A bowl of rice.'},
        ]
        content = {'info': {}, 'licenses': [], 'images': images, 'annotations': captions}
        kit.dump(root / 'annotations' / f'captions_{split}2017.json', content)
        for n in (1, 2):
            kit.picture(root / f'{split}2017' / f'{n:012d}.jpg')
    return root


@pytest.mark.parametrize(
    ('choice', 'expected'),
    [
        ('all', ['A bowl of rice.', 'A bowl of white rice on a table.', 'Noodles']),
        ('first', ['A bowl of rice.', 'Noodles']),
        ('longest', ['A bowl of white rice on a table.', 'Noodles']),
    ],
)
def test_captions(kit, root, choice, expected):
    kit.convert('coco_captions', root, '--captions', choice)
    records = kit.lines(root / 'captions' / 'train.jsonl')
    assert [r['conversations'][1]['value'] for r in records] == expected
    assert records[0]['image'] == 'train2017/000000000001.jpg'
    held = kit.lines(root / 'captions' / 'val.jsonl')
    assert [len(r['captions']) for r in held] == [3, 1]
    assert len(kit.reads(root / 'captions' / 'train.jsonl', root)) == len(expected)


def test_wordings_are_seeded(kit, root, tmp_path):
    asked = []
    for seed in ('0', '0', '5'):
        kit.convert('coco_captions', root, tmp_path, '--prompt', *'abcdefgh', '--seed', seed)
        asked.append([r['conversations'][0]['value'] for r in kit.lines(tmp_path / 'train.jsonl')])
    assert asked[0] == asked[1] != asked[2]
    kit.convert('coco_captions', root, tmp_path, '--language', 'zh', '--captions', 'random')
    assert '图' in kit.lines(tmp_path / 'train.jsonl')[0]['conversations'][0]['value']


def test_karpathy(kit, root, tmp_path):
    images = [
        {
            'filepath': 'train2017',
            'filename': f'{n:012d}.jpg',
            'cocoid': n,
            'split': split,
            'sentences': [{'raw': f'caption {n}', 'tokens': ['caption']}],
        }
        for n, split in ((1, 'train'), (2, 'restval'))
    ]
    images.append({**images[0], 'filepath': 'val2017', 'split': 'test'})
    file = kit.dump(tmp_path / 'dataset_coco.json', {'images': images, 'dataset': 'coco'})
    printed = kit.convert('coco_captions', root, tmp_path / 'k', '--karpathy', file)
    assert [r['conversations'][1]['value'] for r in kit.lines(tmp_path / 'k' / 'train.jsonl')] == [
        'caption 1',
        'caption 2',
    ]
    assert kit.lines(tmp_path / 'k' / 'test.jsonl')[0]['image'] == 'val2017/000000000001.jpg'
    assert 'test: dataset=dict' in printed
    assert 'val:' not in printed
    images[1]['split'] = 'dev'
    kit.dump(file, {'images': images})
    assert "image 1: is of the split 'dev'" in kit.convert(
        'coco_captions', root, tmp_path / 'x', '--karpathy', file, status=1
    )


def test_wrong_input(kit, root, tmp_path):
    (root / 'train2017' / '000000000002.jpg').unlink()
    error = kit.convert('coco_captions', root, status=1)
    assert 'captions_train2017.json: image 2: no picture train2017/000000000002.jpg' in error
    assert not (root / 'captions').exists()
    printed = kit.convert('coco_captions', root, '--on-error', 'skip')
    assert 'left out: 1 (train: bad records)' in printed
    kit.dump(root / 'annotations' / 'captions_train2017.json', {'categories': [], 'images': []})
    assert 'instances_*.json' in kit.convert('coco_captions', root, status=1)
    (root / 'annotations' / 'captions_train2017.json').unlink()
    assert 'No such file' in kit.convert('coco_captions', root, status=1)
    with pytest.raises(SystemExit):
        kit.convert('coco_captions', root, '--split', 'test')


def test_pictures_without_captions_are_counted(kit, root):
    images = [{'id': n, 'file_name': f'{n:012d}.jpg'} for n in (1, 2)]
    captions = [{'image_id': 1, 'id': 1, 'caption': 'Rice.'}]
    kit.dump(root / 'annotations' / 'captions_train2017.json', {'images': images, 'annotations': captions})
    printed = kit.convert('coco_captions', root)
    assert 'left out: 1 (train: pictures without a caption)' in printed
    captions.append({'image_id': 7, 'id': 2, 'caption': 'x'})
    kit.dump(root / 'annotations' / 'captions_train2017.json', {'images': images, 'annotations': captions})
    assert 'annotation 1: is about image 7' in kit.convert('coco_captions', root, status=1)
