"""mmft data llava_mix and sharegpt4v.py on made-up copies of the published files."""

from __future__ import annotations

import shutil

import pytest

LLAVA = [
    'coco/train2017/000000033471.jpg',
    'gqa/images/2354786.jpg',
    'ocr_vqa/images/140031996.jpg',
    'textvqa/train_images/011e7e629fb9ae7b.jpg',
    'vg/VG_100K/2375429.jpg',
    'vg/VG_100K_2/2404362.jpg',
]
SHARE = [
    'llava/llava_pretrain/images/00224/002241494.jpg',
    'sam/images/sa_545504.jpg',
    'share_textvqa/images/2a3eed5d3ff49d33.jpg',
    'web-celebrity/images/x.jpg',
    'web-landmark/images/y.jpg',
    'wikiart/images/z.jpg',
]


def talk(image=None, *turns):
    turns = turns or ('What is this?', 'A dish.')
    first = ('<image>\n' if image else '') + turns[0]
    values = [first, *turns[1:]]
    record = {
        'id': str(image),
        'conversations': [{'from': ('human', 'gpt')[n % 2], 'value': v} for n, v in enumerate(values)],
    }
    return {**record, 'image': image} if image else {**record, 'model': ''}


def mix(kit, root, paths, *more):
    for path in paths:
        kit.picture(root / path)
    return kit.dump(root / 'mix.json', [*(talk(path) for path in paths), *more])


def test_llava(kit, tmp_path):
    file = mix(kit, tmp_path / 'llava', LLAVA, talk(), talk(LLAVA[0], 'a', 'b', 'c', 'd'))
    printed = kit.convert('llava_mix', file, tmp_path / 'llava')
    written = kit.lines(tmp_path / 'llava' / 'mix' / 'train.jsonl')
    assert [r.get('image') for r in written] == [*LLAVA, None, LLAVA[0]]
    assert len(kit.reads(tmp_path / 'llava' / 'mix' / 'train.jsonl', tmp_path / 'llava')) == 8
    assert [line.split()[0] for line in printed.splitlines()[1:7]] == [p.rpartition('/')[0] for p in LLAVA]
    assert 'text only' in printed


def test_alignment_set(kit, tmp_path):
    paths = ['00453/004539375.jpg', '00223/002239345.jpg']
    file = mix(kit, tmp_path / 'p', paths)
    kit.convert('llava_mix', file, tmp_path / 'p', tmp_path / 'o')
    assert len(kit.lines(tmp_path / 'o' / 'train.jsonl')) == 2
    (tmp_path / 'p' / paths[0]).unlink()
    error = kit.convert('llava_mix', file, tmp_path / 'p', tmp_path / 'x', status=1)
    assert '. lacks 1 of 2, such as 00453/004539375.jpg (from: images.zip of LLaVA-Pretrain' in error


def test_sharegpt4v(kit, tmp_path):
    file = mix(kit, tmp_path / 's', [*LLAVA, *SHARE], talk())
    printed = kit.convert('sharegpt4v', file, tmp_path / 's', '--text-only', 'drop')
    assert 'left out: 1 (text only)' in printed
    assert len(kit.lines(tmp_path / 's' / 'mix' / 'train.jsonl')) == 12
    shutil.rmtree(tmp_path / 's' / 'sam')
    shutil.rmtree(tmp_path / 's' / 'wikiart')
    error = kit.convert('sharegpt4v', file, tmp_path / 's', tmp_path / 'o', status=1)
    assert '2 pictures missing' in error
    assert 'sam/images is not there, such as sam/images/sa_545504.jpg (from: SA-1B' in error
    assert 'wikiart/images is not there' in error
    assert not (tmp_path / 'o').exists()
    printed = kit.convert('sharegpt4v', file, tmp_path / 's', tmp_path / 'o', '--missing', 'skip')
    assert 'left out: 1 (pictures missing in sam/images)' in printed
    assert len(kit.lines(tmp_path / 'o' / 'train.jsonl')) == 11
    assert len(kit.lines(tmp_path / 'o' / 'left_out.jsonl')) == 2


def test_gifs_under_the_name_of_a_jpeg(kit, tmp_path):
    file = mix(kit, tmp_path / 'l', LLAVA)
    (tmp_path / 'l' / LLAVA[2]).unlink()
    kit.picture((tmp_path / 'l' / LLAVA[2]).with_suffix('.gif'))
    printed = kit.convert('llava_mix', file, tmp_path / 'l')
    assert 'changed: 1 (pictures of another file type than their path says)' in printed
    written = kit.lines(tmp_path / 'l' / 'mix' / 'train.jsonl')
    assert written[2]['image'] == 'ocr_vqa/images/140031996.gif'
    kit.reads(tmp_path / 'l' / 'mix' / 'train.jsonl', tmp_path / 'l')


def test_turns_at_the_ends_are_mended_and_counted(kit, tmp_path):
    odd = talk(None, 'x', 'a', 'q', 'b', 'left open')
    odd['conversations'].insert(0, {'from': 'gpt', 'value': 'Before any question.'})
    file = mix(kit, tmp_path / 'l', LLAVA[:1], odd)
    printed = kit.convert('llava_mix', file, tmp_path / 'l')
    assert 'changed: 1 (answers before the first question taken off)' in printed
    assert 'changed: 1 (questions after the last answer taken off)' in printed
    turns = kit.lines(tmp_path / 'l' / 'mix' / 'train.jsonl')[1]['conversations']
    assert [t['value'] for t in turns] == ['x', 'a', 'q', 'b']


def test_held_out_pictures(kit, tmp_path):
    paths = [f'coco/train2017/{n:012d}.jpg' for n in range(60)]
    file = mix(kit, tmp_path / 'l', paths, *(talk(p, 'again', 'b') for p in paths))
    kit.convert('llava_mix', file, tmp_path / 'l', tmp_path / 'o', '--val', '0.2')
    train, val = ({r['image'] for r in kit.lines(tmp_path / 'o' / f'{part}.jsonl')} for part in ('train', 'val'))
    assert 4 < len(val) < 24
    assert not train & val


def test_a_linked_folder_is_said(kit, tmp_path):
    file = mix(kit, tmp_path / 'l', LLAVA)
    shutil.move(tmp_path / 'l' / 'coco', tmp_path / 'elsewhere')
    (tmp_path / 'l' / 'coco').symlink_to(tmp_path / 'elsewhere')
    assert 'follow_links=True' in kit.convert('llava_mix', file, tmp_path / 'l')


@pytest.mark.parametrize(
    ('record', 'words'),
    [
        (talk(LLAVA[0], ' ', ''), 'is an empty answer'),
        ({'id': 1, 'image': LLAVA[0]}, 'no known format'),
        ({**talk(), 'image': LLAVA[0]}, '0 <image> in the questions, 1 picture'),
        ({**talk(LLAVA[0]), 'image': '../secret.jpg'}, 'relative to the image root'),
        ({**talk(LLAVA[0]), 'conversations': 'x'}, "`conversations` is 'x'"),
        ('nothing', 'a str where a record should be'),
    ],
)
def test_bad_records_stop_it_or_are_counted(kit, tmp_path, record, words):
    kit.picture(tmp_path / LLAVA[0])
    file = tmp_path / 'mix.json'
    kit.dump(file, [talk(LLAVA[0]), record])
    file.write_text(file.read_text().replace('}, ', '},\n'))
    error = kit.convert('llava_mix', file, tmp_path, status=1)
    assert words in error
    assert f'{file}:' in error
    assert not (tmp_path / 'mix').exists()
    printed = kit.convert('llava_mix', file, tmp_path, '--on-error', 'skip')
    assert 'left out: 1 (bad records)' in printed


def test_other_files(kit, tmp_path):
    assert 'no such annotation file' in kit.convert('llava_mix', tmp_path / 'x.json', tmp_path, status=1)
    file = mix(kit, tmp_path / 'l', LLAVA)
    assert 'no such folder' in kit.convert('llava_mix', file, tmp_path / 'none', status=1)
    file.write_text(file.read_text()[:-9])
    assert 'invalid JSON' in kit.convert('llava_mix', file, tmp_path / 'l', status=1)
    kit.dump(file, [talk('video/1/2.jpg')])
    error = kit.convert('llava_mix', file, tmp_path / 'l', status=1)
    assert 'video/1 is not there' in error
    assert 'a folder that this mix does not know' in error
    assert 'nothing is left to write' in kit.convert('llava_mix', file, tmp_path / 'l', '--missing', 'skip', status=1)
