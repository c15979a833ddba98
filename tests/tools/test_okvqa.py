"""mmft data okvqa on a made-up copy of OK-VQA's files."""

from __future__ import annotations

import json
import shlex
from collections import Counter

import pytest

from mmft.cli.compare import dataset_of
from mmft.compare.questions import read_questions
from mmft.errors import DataError

ANSWERS = ['race', 'race', 'race', 'race', 'ride', 'ride', 'fun', 'fun', 'fun', 'motocross']
TYPES = {'four': 'Sports and Recreation', 'five': 'Cooking and Food', 'other': 'Other'}
SUFFIX = '\nAnswer the question using a single word or phrase.'


def question(n, image=None):
    return {'image_id': 100 + n if image is None else image, 'question': f'What for {n}?', 'question_id': n}


def annotation(n, kind='other', answers=ANSWERS, image=None):
    return {
        'image_id': 100 + n if image is None else image,
        'question_id': n,
        'question_type': kind,
        'answer_type': 'other',
        'confidence': 3,
        'answers': [
            {'answer': a, 'raw_answer': f'{a}s', 'answer_confidence': 'yes', 'answer_id': i + 1}
            for i, a in enumerate(answers)
        ],
    }


def release(kit, root, split='train', questions=None, annotations=None):
    questions = [question(1), question(2), question(3)] if questions is None else questions
    given = [annotation(1), annotation(2, 'four'), annotation(3)] if annotations is None else annotations
    head = {'info': {}, 'license': {}, 'data_type': 'mscoco', 'data_subtype': f'{split}2014'}
    kit.dump(root / f'OpenEnded_mscoco_{split}2014_questions.json', {**head, 'questions': questions})
    kit.dump(root / f'mscoco_{split}2014_annotations.json', {**head, 'annotations': given, 'question_types': TYPES})


@pytest.fixture
def root(kit, tmp_path):
    root = tmp_path / 'okvqa'
    for split in ('train', 'val'):
        release(kit, root, split)
        for n in (1, 2, 3):
            kit.picture(root / f'{split}2014' / f'COCO_{split}2014_{100 + n:012d}.jpg')
    return root


def test_both_splits(kit, root, tmp_path):
    out = tmp_path / 'out'
    printed = kit.convert('okvqa', root, root, out)
    records = kit.lines(out / 'train.jsonl')
    assert records[0]['image'] == 'train2014/COCO_train2014_000000000101.jpg'
    assert records[0]['conversations'] == [
        {'from': 'human', 'value': f'<image>\nWhat for 1?{SUFFIX}'},
        {'from': 'gpt', 'value': 'race'},
    ]
    assert records[1]['question_type'] == 'four'
    assert records[0]['answers'] == ANSWERS
    assert len(kit.reads(out / 'train.jsonl', root)) == len(kit.reads(out / 'val.jsonl', root)) == 3
    assert f"image_root='{root}'" in printed
    assert json.loads((out / 'report.json').read_text())['counts']['train'] == {'other': 2, 'four': 1}


def test_compare_says_where_the_pictures_of_a_converted_set_are(kit, root, tmp_path):
    out = tmp_path / 'my out'
    printed = kit.convert('okvqa', root, root, out)
    (line,) = [line for line in printed.splitlines() if 'mmft compare' in line]
    file, option, folder = shlex.split(line)[-3:]
    assert option == '--image-root'
    assert len(read_questions(dataset_of(file, folder))) == 3
    with pytest.raises(DataError, match=r'(?s)no such picture.*--image-root'):
        read_questions(dataset_of(file, None))


@pytest.mark.parametrize('name', ['other', 'Other'])
def test_type_filter(kit, root, tmp_path, name):
    printed = kit.convert('okvqa', root, root, tmp_path / 'out', '--type', name)
    assert {r['question_type'] for r in kit.lines(tmp_path / 'out' / 'train.jsonl')} == {'other'}
    assert 'left out: 1 (train: of another type)' in printed
    error = kit.convert('okvqa', root, root, tmp_path / 'no', '--type', name, 'sports', status=1)
    assert "is of type ['sports']" in error
    assert 'four (Sports and Recreation): 1, other (Other): 2' in error
    assert not (tmp_path / 'no').exists()


@pytest.mark.parametrize(
    ('policy', 'extra', 'expected'),
    [
        ('most_common', [], ['race']),
        ('all', [], ['race', 'fun', 'ride', 'motocross']),
        ('all', ['--min-votes', '3'], ['race', 'fun']),
        ('every', [], ['race'] * 4 + ['fun'] * 3 + ['ride'] * 2 + ['motocross']),
        ('most_common', ['--field', 'raw_answer'], ['races']),
    ],
)
def test_policies(kit, root, tmp_path, policy, extra, expected):
    kit.convert('okvqa', root, root, tmp_path, '--answers', policy, *extra)
    records = [r for r in kit.lines(tmp_path / 'train.jsonl') if r['question_id'] == 1]
    assert [r['conversations'][1]['value'] for r in records] == expected
    assert len({r['id'] for r in records}) == len(records)
    assert len(kit.lines(tmp_path / 'val.jsonl')) == 3  # one record a question, whatever trains


def test_weighted_is_seeded_and_follows_the_votes(kit, root, tmp_path):
    many = range(1, 201)
    release(kit, root, 'train', [question(n, 101) for n in many], [annotation(n, image=101) for n in many])
    drawn = []
    for seed in ('0', '0', '1'):
        kit.convert('okvqa', root, root, tmp_path / 'o', '--answers', 'weighted', '--seed', seed, '--split', 'train')
        drawn.append([r['conversations'][1]['value'] for r in kit.lines(tmp_path / 'o' / 'train.jsonl')])
    assert drawn[0] == drawn[1] != drawn[2]
    counts = Counter(drawn[0])
    assert counts['race'] > counts['fun'] > counts['motocross'] > 0


def test_votes_that_nothing_reaches_are_counted(kit, root, tmp_path):
    spread = [annotation(1, answers=list('abcdefghij')), annotation(2), annotation(3)]
    release(kit, root, 'train', annotations=spread)
    printed = kit.convert('okvqa', root, root, tmp_path, '--min-votes', '2', '--split', 'train')
    assert 'left out: 1 (train: no answer was given by 2 people)' in printed


def test_merged_conversations(kit, root, tmp_path):
    release(kit, root, 'train', [question(n, 101) for n in (1, 2)], [annotation(n, image=101) for n in (1, 2)])
    kit.convert('okvqa', root, root, tmp_path, '--merge', '--split', 'train')
    (record,) = kit.lines(tmp_path / 'train.jsonl')
    values = [turn['value'] for turn in record['conversations']]
    assert values == [f'<image>\nWhat for 1?{SUFFIX}', 'race', 'What for 2?', 'race']
    assert record['question_ids'] == [1, 2]
    assert 'one answer a question' in kit.convert(
        'okvqa', root, root, tmp_path / 'x', '--merge', '--answers', 'all', status=1
    )


def test_no_suffix_and_the_pictures_of_2017(kit, root, tmp_path):
    for n in (1, 2, 3):
        kit.picture(tmp_path / 'coco' / ('train2017' if n < 3 else 'val2017') / f'{100 + n:012d}.jpg')
    kit.convert('okvqa', root, tmp_path / 'coco', tmp_path, '--suffix', '', '--split', 'train')
    records = kit.lines(tmp_path / 'train.jsonl')
    assert [r['image'] for r in records][1:] == ['train2017/000000000102.jpg', 'val2017/000000000103.jpg']
    assert records[0]['conversations'][0]['value'] == '<image>\nWhat for 1?'


def _edit(name, change):
    def act(root):
        file = root / name
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))

    return act


QUESTIONS, ANNOTATIONS = 'OpenEnded_mscoco_train2014_questions.json', 'mscoco_train2014_annotations.json'


@pytest.mark.parametrize(
    ('damage', 'words'),
    [
        (lambda r: (r / 'train2014/COCO_train2014_000000000102.jpg').unlink(), 'question 2: no picture train2014/COCO'),
        (lambda r: (r / 'train2014/COCO_train2014_000000000102.jpg').write_text('x'), 'not a picture'),
        (_edit(QUESTIONS, lambda c: c['questions'].pop()), 'question 3: is not among the questions'),
        (_edit(ANNOTATIONS, lambda c: c['annotations'].pop()), 'question 3: has no annotation'),
        (_edit(ANNOTATIONS, lambda c: c['annotations'].append(annotation(1))), 'the question_id 1 stands there twice'),
        (_edit(ANNOTATIONS, lambda c: c['annotations'][1].update(answers=[])), 'question 2: `answers` is []'),
        (_edit(ANNOTATIONS, lambda c: c['annotations'][1].update(question_type=None)), '`question_type` is None'),
        (_edit(QUESTIONS, lambda c: c['questions'][1].update(question=' ')), "question 2: `question` is ' '"),
    ],
)
def test_bad_records_stop_it_or_are_counted(kit, root, tmp_path, damage, words):
    damage(root)
    error = kit.convert('okvqa', root, root, tmp_path / 'out', '--split', 'train', status=1)
    assert words in error
    assert str(root / 'mscoco_train2014_annotations.json') in error or str(root / QUESTIONS) in error
    assert '--on-error skip' in error
    assert not (tmp_path / 'out').exists()
    printed = kit.convert('okvqa', root, root, tmp_path / 'out', '--split', 'train', '--on-error', 'skip')
    assert 'left out: 1 (' in printed
    (named,) = kit.lines(tmp_path / 'out' / 'left_out.jsonl')
    assert words.split(': ')[-1][:12] in named['error']


def test_other_files(kit, root, tmp_path):
    (root / ANNOTATIONS).write_text('{"annotations": [')
    assert 'invalid JSON at line 1' in kit.convert('okvqa', root, root, tmp_path / 'o', status=1)
    kit.dump(root / ANNOTATIONS, {'questions': []})
    assert "no list `annotations` of objects in it but ['questions']" in kit.convert(
        'okvqa', root, root, tmp_path / 'o', status=1
    )
    (root / ANNOTATIONS).unlink()
    assert 'download both from okvqa.allenai.org' in kit.convert('okvqa', root, root, tmp_path / 'o', status=1)
    assert 'no such folder' in kit.convert('okvqa', root, root / 'coco', tmp_path / 'o', status=1)
    release(kit, root, 'train')
    vqa = annotation(1)
    for answer in vqa['answers']:
        del answer['raw_answer']
    release(kit, root, 'train', [question(1)], [vqa])
    error = kit.convert('okvqa', root, root, tmp_path / 'o', '--field', 'raw_answer', status=1)
    assert 'the answers have no `raw_answer`' in error
