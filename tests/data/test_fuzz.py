"""Junk in meta files, records and options of a dataset: it works, or it is an error of mmft; seeded."""

from __future__ import annotations

import json
import random

import pytest
from PIL import Image

from mmft.data.check import source_of, survey
from mmft.data.check.page import page
from mmft.data.check.report import text, to_json
from mmft.data.records.dataset import ChatDataset
from mmft.errors import MMFTError
from tests.data.junk import VALUES, spoilt, spoilt_bytes
from tests.data.test_check import make_encoder

ROUNDS = 250
MOST_BYTES = 20_000
TURNS = [{'from': 'human', 'value': '<image>\nWhat?'}, {'from': 'gpt', 'value': 'A dish.'}]
RECORDS = [
    {'id': 1, 'image': 'a.png', 'conversations': TURNS, 'width': 40},
    {'images': ['a.png'], 'system': 'Be short.', 'messages': [
        {'role': 'user', 'content': [{'type': 'image'}, {'type': 'text', 'text': 'What?'}]},
        {'role': 'assistant', 'content': 'A dish.', 'loss': True, 'weight': 1}]},
    {'messages': [{'role': 'system', 'content': 'x'}, {'role': 'user', 'content': '<img>a.png</img>?', 'images': []},
                  {'role': 'assistant', 'content': 'A dish.'}]},
]  # fmt: skip


@pytest.fixture(scope='module')
def encoder():
    return make_encoder()


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp('fuzz')
    Image.new('RGB', (40, 30)).save(root / 'a.png')
    (root / 'good.jsonl').write_text(json.dumps(RECORDS[0]) + '\n')
    return root


def opened(**options):
    """The dataset, every sample of it; None where mmft refuses it, in text that any stream takes."""
    try:
        dataset = ChatDataset(**options)
        for i in range(min(len(dataset), 4)):
            dataset.record(i)
            if dataset.encoder is not None:
                dataset[i]
    except MMFTError as error:
        check_message(error)
        return None
    return dataset


def check_message(error):
    assert 0 < len(str(error).encode()) < MOST_BYTES


def test_records(root, encoder):
    path, worked = root / 'a.jsonl', 0
    for seed in range(ROUNDS):
        rng = random.Random(seed)
        record = spoilt(rng.choice(RECORDS), rng)
        path.write_text(json.dumps(record) + '\n')
        worked += opened(ann_file=path, encoder=encoder) is not None
    assert ROUNDS * 0.1 < worked < ROUNDS * 0.9


def test_one_bad_record_spoils_no_other_and_no_report(root, encoder):
    rng = random.Random(0)
    path = root / 'b.jsonl'
    junk = [spoilt(rng.choice(RECORDS), rng) for _ in range(ROUNDS)]
    junk += [{**RECORDS[0], 'image': value, 'id': value} for value in VALUES]
    path.write_text(''.join(json.dumps(record) + '\n' for record in [RECORDS[0], *junk]))
    result = survey([source_of({'ann_file': str(path)})], encoder, workers=0)
    assert result.parts[0].subset.file.line(0) == 1
    assert len(result.parts[0]) == 1 + len(junk)
    (text(result) + page(result, 'x')).encode()
    json.dumps(to_json(result), ensure_ascii=False).encode()
    dataset = opened(ann_file=path, encoder=encoder, on_error='skip')
    assert dataset.record(0).images == [str(root / 'a.png')]


def test_bytes(root):
    records = tables = 0
    for seed in range(ROUNDS):
        rng = random.Random(seed)
        good = rng.choice((RECORDS[0], RECORDS, {'a': {'root': str(root), 'annotation': str(root / 'good.jsonl')}}))
        (root / 'c.json').write_bytes(spoilt_bytes(good, rng))
        records += opened(ann_file=root / 'c.json', on_error=rng.choice(('raise', 'skip'))) is not None
        tables += opened(meta_file=root / 'c.json') is not None
    assert 0 < records < ROUNDS * 0.9
    assert 0 < tables < ROUNDS * 0.5


def test_meta_files(root, encoder):
    entry = {'root': str(root), 'annotation': str(root / 'good.jsonl'), 'repeat_time': 2, 'length': 1, 'format': 'auto',
             'data_augment': False, 'max_dynamic_patch': 2, 'min_dynamic_patch': 1}  # fmt: skip
    weighed = {k: v for k, v in entry.items() if k != 'repeat_time'} | {'weight': 0.5}
    worked = 0
    for seed in range(ROUNDS):
        rng = random.Random(seed)
        meta = spoilt(rng.choice(({'a': entry}, {'a': entry, 'b': entry}, {'a': weighed, 'b': weighed})), rng)
        worked += opened(meta_file=meta, encoder=encoder) is not None if isinstance(meta, dict) else 0
        (root / 'meta.json').write_text(json.dumps(meta))
        opened(meta_file=root / 'meta.json', encoder=encoder)
    assert ROUNDS * 0.1 < worked < ROUNDS * 0.9


def test_options(root, encoder):
    options = {'ann_file': str(root / 'good.jsonl'), 'image_root': str(root), 'format': 'auto', 'on_error': 'raise',
               'check': 'pictures', 'repeat_time': 1.0, 'max_samples': 1, 'seed': 0, 'follow_links': False,
               'min_side': 2, 'max_pixels': 10_000, 'ignore_keys': ['x']}  # fmt: skip
    worked = surveyed = 0
    for seed in range(ROUNDS):
        rng = random.Random(seed)
        changed = {**options, rng.choice(list(options)): rng.choice(VALUES)}
        worked += opened(**changed, encoder=encoder) is not None
        try:
            surveyed += len(survey([source_of(changed)], encoder, workers=0).parts)
        except MMFTError as error:
            check_message(error)
    assert 0 < worked < ROUNDS * 0.1
    assert ROUNDS * 0.05 < surveyed < ROUNDS * 0.9


def test_nesting_up_to_where_python_ends(root, encoder):
    for depth in range(100, 1200, 25):
        deep = '[' * depth + ']' * depth
        for record in ('"id": D, "image": "a.png"', '"image": D', '"image": {"path": D}', '"image": "a.png", "x": D'):
            row = json.dumps(RECORDS[0]).replace('"id": 1, "image": "a.png"', record.replace('D', deep))
            (root / 'd.jsonl').write_text(row)
            read = opened(ann_file=root / 'd.jsonl', encoder=encoder)
            assert read is None or '"id"' in record or '"x"' in record  # no place of a path
            result = survey([source_of({'ann_file': str(root / 'd.jsonl')})], encoder, workers=0)
            assert 'd.jsonl' in text(result).encode().decode()
        (root / 'd.json').write_text('{"a": ' + deep + '}')
        assert opened(meta_file=root / 'd.json') is None


def test_an_error_without_advice_is_given_some(root):
    (root / 'e.jsonl').write_text('[1]\n')
    with pytest.raises(MMFTError, match="to do:    correct the record, or on_error='skip'"):
        ChatDataset(root / 'e.jsonl')
