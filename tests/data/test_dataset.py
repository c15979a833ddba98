"""``ChatDataset``: what is good arrives unchanged, what is bad is named with file and line and never replaced."""

from __future__ import annotations

import copy
import json
import logging
import multiprocessing
import pickle
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

from mmft.data.batches.collate import PadCollator
from mmft.data.batches.sampler import EpochBatchSampler
from mmft.data.encoder import ChatEncoder
from mmft.data.pictures.tilers import DynamicTiler
from mmft.data.records.dataset import ChatDataset
from mmft.errors import ConfigError, DataError
from mmft.evaluation.answers import question_of
from mmft.registry import DATASETS
from mmft.structures import IGNORE_INDEX

SPECIAL = ['<s>', '</s>', '<|im_start|>', '<|im_end|>', '<img>', '</img>', '<IMG_CONTEXT>']


@pytest.fixture(scope='module')
def encoder():
    """A real encoder over a tokenizer of single bytes: 32 px tiles of 4 tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({t: i for i, t in enumerate(SPECIAL + alphabet)}, []))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token='</s>', pad_token='</s>', bos_token='<s>')
    tokenizer.add_special_tokens({'additional_special_tokens': SPECIAL[2:]})
    template = dict(type='internlm2-chat', system_message='Be short.')
    return ChatEncoder(tokenizer, template, DynamicTiler(tile_size=32, max_tiles=4), tokens_per_tile=4, max_length=500)


def picture(path, size=(40, 30), colour=(200, 30, 40), **save):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', size, colour).save(path, **save)
    return path


def ask(answer='A dish.', question='<image>\nWhat is it?', image='a.png', **keys):
    record = {'conversations': [{'from': 'human', 'value': question}, {'from': 'gpt', 'value': answer}], **keys}
    return {'image': image, **record} if image is not None else record


def write(path, *records):
    lines = [r if isinstance(r, str) else json.dumps(r) for r in records]
    path.write_text('\n'.join(lines) + '\n', encoding='utf-8')
    return path


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / 'food'
    picture(folder / 'a.png')
    picture(folder / 'sub' / 'b.jpg', (90, 30))
    picture(folder / 'c.png', (30, 90), (0, 250, 0))
    return folder


@pytest.fixture
def good(root):
    """Three records: one picture, two pictures, text only."""
    two = ask('The first.', 'Here <image> and <image>', ['sub/b.jpg', 'c.png'], id='two')
    return write(root / 'train.jsonl', ask(), two, ask('Hello!', 'Hi', None))


def test_samples(good, encoder):
    dataset = ChatDataset(good, encoder=encoder)
    samples = [dataset[i] for i in range(len(dataset))]
    assert [s.num_tiles for s in samples] == [[1], [3, 3], []]  # two pictures share the four tiles, plus a thumbnail
    assert samples[1].image_sizes == [(90, 30), (30, 90)]
    assert samples[1].meta == {'file': str(good), 'line': 2, 'index': 1, 'id': 'two'}
    answers = [encoder.decode(s.input_ids[s.labels != IGNORE_INDEX]) for s in samples]
    assert answers == ['A dish.', 'The first.', 'Hello!'] == [dataset.ground_truth(i) for i in range(3)]
    assert dataset.lengths.tolist() == [len(s) for s in samples]
    assert dataset.num_images.tolist() == [1, 2, 0]
    assert dataset[-1].meta['line'] == 3
    with pytest.raises(IndexError):
        dataset[3]


def test_record_names_the_full_paths(good, root):
    record = ChatDataset(good).record(1)
    assert record.images == [str(root / 'sub/b.jpg'), str(root / 'c.png')]
    assert record.messages[0] == {'role': 'user', 'content': 'Here <image> and <image>'}
    assert record.raw['id'] == 'two'


def turns(*pairs, **keys):
    return {'messages': [{'role': role, 'content': text} for role, text in pairs], **keys}


def test_a_template_that_takes_any_order_does_so_for_records(root, encoder):
    """InternVL2.5's does, as its original: what is refused without it is read with it, and encoded as it stands."""
    path = write(
        root / 'a.jsonl',
        turns(('user', '<image>\nLook.'), ('user', 'What is it?'), ('assistant', 'A dish.'), images=['a.png']),
        turns(('assistant', 'Good day.'), ('user', 'Hi'), ('assistant', 'Hello!'), ('assistant', 'And welcome.')),
    )
    for given in (None, encoder):
        with pytest.raises(DataError, match=r"a\.jsonl:1: message 2 is of role 'user'"):
            ChatDataset(path, image_root=root, encoder=given)
    free = ChatEncoder(encoder.tokenizer, 'internvl2_5', encoder.image_processor, tokens_per_tile=4)
    dataset = ChatDataset(path, image_root=root, encoder=free)
    assert [dataset.ground_truth(i) for i in range(2)] == ['A dish.', 'And welcome.']
    assert [turn['content'] for turn in dataset.record(0).question[0]] == ['<image>\nLook.', 'What is it?']
    assert [len(dataset[i]) for i in range(2)] == dataset.lengths.tolist()
    taught = [encoder.decode(s.input_ids[s.labels != IGNORE_INDEX]) for s in map(dataset.__getitem__, range(2))]
    assert taught[1].startswith('Good day.')
    text = free.template.text(dataset.record(1).messages)
    assert dataset[1].input_ids.tolist() == free.tokenizer(text, add_special_tokens=False).input_ids
    write(path, turns(('user', 'Hi'), ('assistant', 'Hello!'), ('user', 'And?')))
    with pytest.raises(DataError, match=r"a\.jsonl:1: the last message is of role 'user'"):
        ChatDataset(path, image_root=root, encoder=free)


def test_what_the_template_does_not_take_is_found_with_the_records(root, encoder):
    """No picture is opened for it."""
    path = write(root / 'a.jsonl', ask(), turns(('system', 'S'), ('user', 'Hi'), ('assistant', 'Hello!')))
    assert len(ChatDataset(path)) == 2
    plain = ChatEncoder(encoder.tokenizer, dict(type='internlm2-chat', system=None, system_message=None),
                        encoder.image_processor, tokens_per_tile=4)  # fmt: skip
    with pytest.raises(DataError, match=r'a\.jsonl:2: message 1 is of role system, for which template'):
        ChatDataset(path, encoder=plain, check='records')


def test_answers_of_a_record_are_its_references(root, encoder):
    people = [{'answer': 'a dish'}, 'food', {'answer': None}]
    dataset = ChatDataset(write(root / 'a.jsonl', ask(answers=people), ask(), ask(answers=[])), encoder=encoder)
    assert [dataset.record(i).references for i in range(3)] == [['a dish', 'food'], ['A dish.'], ['A dish.']]
    assert [dataset[i].meta.get('references') for i in range(3)] == [['a dish', 'food'], None, None]


def test_absolute_paths_inside_the_root_and_dots_that_stay_inside(root, encoder):
    path = write(root / 'a.jsonl', ask(image=str(root / 'a.png')), ask(image='sub/../a.png'))
    dataset = ChatDataset(path, image_root=root, encoder=encoder)
    assert torch.equal(dataset[0].pixel_values, dataset[1].pixel_values)


def test_needs_an_encoder_for_samples_only(good, encoder):
    dataset = ChatDataset(good)
    assert dataset.ground_truth(0) == 'A dish.'
    for use in (lambda: dataset[0], lambda: dataset.lengths):
        with pytest.raises(ConfigError, match='encoder'):
            use()
    dataset.encoder = encoder
    assert len(dataset[0]) == dataset.lengths[0]


def test_fingerprint(root, encoder):
    """Follows the bytes of the annotations and the choice of records, not the file's name."""
    one = write(root / 'one.jsonl', ask('A dish.'), ask('A soup.'))
    same = write(root / 'same.jsonl', ask('A dish.'), ask('A soup.'))
    other = write(root / 'other.jsonl', ask('A dish.'), ask('A cake.'))
    assert one.stat().st_size == other.stat().st_size
    first, again, changed, fewer = (
        ChatDataset(path, encoder=encoder, **more).fingerprint
        for path, more in ((one, {}), (same, {}), (other, {}), (one, {'max_samples': 1}))
    )
    assert first == again
    assert {key for key in first if first[key] != changed[key]} == {'annotations'}
    assert {key for key in first if first[key] != fewer[key]} == {'chosen_records'}


def test_built_from_a_config(good, encoder):
    config = dict(type='ChatDataset', ann_file=str(good), max_samples=2)
    dataset = DATASETS.build(config, default_args=dict(encoder=encoder))
    assert len(dataset) == 2


def test_samples_that_are_cut_off_are_said(root, encoder, caplog):
    """With how many answers lose their end token: the model would never learn to stop there."""
    path = write(root / 'a.jsonl', ask(), ask('A long dish. ' * 20), ask('Rice. ' * 30), ask('Hi', 'Hello!', None))
    cutting = copy.copy(encoder)
    cutting.max_length, cutting.too_long = max(ChatDataset(path, encoder=encoder).lengths[[0, 3]]), 'truncate'
    assert not caplog.text
    dataset = ChatDataset(path, encoder=cutting)
    (record,) = caplog.records
    assert f'2 records of {path} are longer than encoder.max_length={cutting.max_length}' in record.getMessage()
    assert '2 answers lose the end token' in record.getMessage()
    assert all('whole' not in dataset[i].meta for i in (0, 3))
    for i in (1, 2):
        sample = dataset[i]
        prompt, reference = question_of(sample)
        assert encoder.decode(reference) == dataset.ground_truth(i).strip()
        assert sample.input_ids[: len(prompt)].equal(prompt)
        assert len(sample) == cutting.max_length
    caplog.clear()
    caplog.set_level(logging.INFO, 'mmft')
    unchecked = ChatDataset(path, encoder=cutting, check='records')
    assert 'records that max_length cuts off are not counted' in caplog.text
    assert '2 records' not in caplog.text
    unchecked.lengths  # noqa: B018
    assert '2 records' in caplog.text


def test_a_cut_behind_the_end_token_loses_none(root, encoder, caplog):
    path = write(root / 'a.jsonl', ask())
    cutting = copy.copy(encoder)
    cutting.template = replace(encoder.template, tail=' and more text')
    cutting.max_length, cutting.too_long = len(ChatDataset(path, encoder=cutting)[0]) - 1, 'truncate'
    ChatDataset(path, encoder=cutting)
    assert '1 record of' in caplog.text
    assert 'no end token is lost' in caplog.text


# Bad input ------------------------------------------------------------------------------------------------------------


def truncated(path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    image.save(path)
    path.write_bytes(path.read_bytes()[:4000])


def bad_cases(root, tmp_path):
    """name -> (bad line, words of the message, words of the advice, kind)."""
    (root / 'text.jpg').write_text('not a picture')
    (root / 'empty.png').write_bytes(b'')
    picture(tmp_path / 'outside.png')
    (root / 'link.png').symlink_to(tmp_path / 'outside.png')
    picture(root / 'long.png', (400, 30))
    picture(root / 'dot.png', (1, 1))
    return {
        'json': ('{"image": "a.png", "conversations": [}', 'invalid JSON at line 2 column 38', 'correct', 'record'),
        'nested': ('{"a": ' + '[' * 100_000, 'nested too deep', 'correct', 'record'),
        'half a character': (ask('\ud83c', 'Hi', None), 'half of a character', 'again', 'record'),
        'not an object': ('"a.png"', 'a str where a record should be', 'JSON object', 'record'),
        'keys': ({'question': 'x'}, 'no known format', 'rename', 'record'),
        'role': (
            {'messages': [{'role': 'bot', 'content': 'x'}]},
            "the role 'bot'",
            "'user'",
            'record',
        ),
        'empty answer': (ask(''), 'is an empty answer', 'write it', 'record'),
        'empty question': (ask('Hi', '', None), 'empty question', 'drop', 'record'),
        'fewer': (ask(question='What?'), '0 <image> in the questions, 1 picture', 'where each', 'record'),
        'more': (ask(question='<image><image>'), '2 <image> in the questions, 1 picture', 'missing', 'record'),
        'climbs': (ask(image='../outside.png'), 'outside the image root', 'image_root', 'record'),
        'climbs deep': (ask(image='sub/../../outside.png'), 'outside the image root', 'image_root', 'record'),
        'absolute': (ask(image=str(tmp_path / 'outside.png')), 'outside the image root', 'image_root', 'record'),
        'link': (ask(image='link.png'), 'a link that leaves the image root', 'follow_links', 'record'),
        'url': (ask(image='https://example.org/a.png'), 'is a URL', 'download', 'record'),
        'nul': (ask(image='a\0.png'), 'not a path', 'image root', 'record'),
        'missing': (ask(image='gone.png'), 'gone.png: no such picture', 'image_root', 'picture'),
        'text file': (ask(image='text.jpg'), 'text.jpg: not a picture', 'again', 'picture'),
        'empty file': (ask(image='empty.png'), 'empty.png: an empty file', 'again', 'picture'),
        'folder': (ask(image='sub'), 'sub: a directory', 'file', 'picture'),
        '1 px': (ask(image='dot.png'), 'dot.png: a picture of 1 x 1 px', 'min_side', 'picture'),
        'too long': (ask('x' * 600), 'tokens', 'max_length', 'length'),
    }


CASES = [
    'json', 'nested', 'half a character', 'not an object', 'keys', 'role', 'empty answer', 'empty question', 'fewer',
    'more', 'climbs', 'climbs deep', 'absolute', 'link', 'url', 'nul', 'missing', 'text file', 'empty file', 'folder',
    '1 px', 'too long',
]  # fmt: skip


@pytest.mark.parametrize('name', CASES)
def test_bad_input_is_one_error_or_one_sample_less(name, root, tmp_path, encoder, caplog):
    cases = bad_cases(root, tmp_path)
    assert list(cases) == CASES
    line, words, todo, kind = cases[name]
    path = write(root / 'bad.jsonl', ask('one'), line, ask('three', image='c.png'))

    with pytest.raises(DataError) as caught:
        ChatDataset(path, image_root=root, encoder=encoder)
    message = str(caught.value)
    assert message.startswith(f'{path}:2: ')
    assert words in message
    assert todo in message
    assert "on_error='skip'" in message
    assert message.count(str(path)) == 1

    dataset = ChatDataset(path, image_root=root, encoder=encoder, on_error='skip')
    assert [dataset.ground_truth(i) for i in range(len(dataset))] == ['one', 'three']
    assert [dataset[i].meta['line'] for i in range(2)] == [1, 3]
    assert dataset.skipped == {kind: 1}
    assert f'{path}:2: ' in caplog.text
    assert str(dataset.problems[0]) in caplog.text

    with pytest.raises(DataError, match='no good record among 1;'):
        ChatDataset(write(root / 'all.jsonl', line), image_root=root, encoder=encoder, on_error='skip')


def test_every_bad_place_is_named_at_once(root, encoder):
    path = write(root / 'bad.jsonl', ask(''), ask(), ask(image='x.png'), '{')
    with pytest.raises(DataError) as caught:
        ChatDataset(path, encoder=encoder)
    assert f'2 more bad: {path}:3, {path}:4' in str(caught.value)
    dataset = ChatDataset(path, encoder=encoder, on_error='skip')
    assert (len(dataset), dataset.skipped) == (1, {'record': 2, 'picture': 1})


def test_truncated_json_array(root, encoder):
    text = json.dumps([ask('one'), ask('two'), ask('three')], indent=1)
    (root / 'a.json').write_text(text[:-40])
    with pytest.raises(DataError, match=r'a\.json:\d+: invalid JSON'):
        ChatDataset(root / 'a.json', encoder=encoder)
    dataset = ChatDataset(root / 'a.json', encoder=encoder, on_error='skip')
    assert (len(dataset), dataset.skipped) == (2, {'record': 1})


def test_links_may_be_followed_when_asked(root, tmp_path, encoder):
    picture(tmp_path / 'store' / 'x.png')
    (root / 'store').symlink_to(tmp_path / 'store')
    path = write(root / 'a.jsonl', ask(image='store/x.png'))
    with pytest.raises(DataError, match='a link that leaves'):
        ChatDataset(path, encoder=encoder)
    assert ChatDataset(path, encoder=encoder, follow_links=True)[0].num_tiles == [1]
    climbing = write(root / 'b.jsonl', ask(image='../store/x.png'))
    with pytest.raises(DataError, match='outside the image root'):
        ChatDataset(climbing, encoder=encoder, follow_links=True)


@pytest.mark.parametrize('workers', [0, 2])
def test_a_picture_broken_in_its_body_makes_the_batch_smaller(workers, root, encoder, caplog):
    truncated(root / 'broken.png')
    path = write(
        root / 'a.jsonl', ask('one'), ask('two', image='broken.png'), ask('three'), ask('4', image='broken.png')
    )
    with pytest.raises(DataError) as caught:
        ChatDataset(path, encoder=encoder)[1]
    assert str(caught.value).startswith(f'{path}:2: {root / "broken.png"}: ')
    assert 'again' in str(caught.value)

    dataset = ChatDataset(path, encoder=encoder, on_error='skip')
    assert (len(dataset), dataset.skipped) == (4, {})
    sampler = EpochBatchSampler(dataset, 2, shuffle=False, rank=0, world_size=1)
    loader = DataLoader(
        dataset, batch_sampler=sampler, collate_fn=PadCollator(encoder.pad_token_id), num_workers=workers
    )
    for _ in range(2):  # counted once, not once an epoch
        batches = list(loader)
        assert [[m['line'] for m in b['meta']] for b in batches] == [[1], [3]]
        assert dataset.skipped == {'picture': 2}
    if not workers:
        assert caplog.text.count(f'{path}:2: ') == 1


@pytest.mark.parametrize('workers', [0, 2])
def test_the_log_of_a_run_names_and_counts_what_is_left_out(workers, root, encoder, tmp_path, monkeypatch):
    """Through mmengine's handlers, which drop a warning whose template they have seen."""
    log = MMLogger(f'left out {workers}', log_file=str(tmp_path / 'run.log'))
    monkeypatch.setattr(logging.getLogger('mmft'), 'handlers', log.handlers)
    truncated(root / 'broken.png')
    broken = [ask('Hm.', image='broken.png')] * 3
    path = write(root / 'a.jsonl', ask(''), ask(image='gone.png'), ask(), *broken)
    dataset = ChatDataset(path, encoder=encoder, on_error='skip')
    for _ in range(2):
        list(DataLoader(dataset, batch_size=1, collate_fn=PadCollator(encoder.pad_token_id), num_workers=workers))
    text = (tmp_path / 'run.log').read_text()
    assert [text.count(f'{path}:{line}: ') for line in range(1, 7)] == [1, 1, 0, 1, 1, 1]
    assert f'left out 1 so far: {path}:1: ' in text
    assert f"2 records left out in all, 4 kept of {path}: {{'record': 1, 'picture': 1}}" in text
    assert 'left out 5 so far: ' in text


def test_an_error_in_a_worker_keeps_its_place(root, encoder):
    truncated(root / 'broken.png')
    path = write(root / 'a.jsonl', ask('one'), ask('two', image='broken.png'))
    with multiprocessing.get_context('fork').Pool(1) as pool, pytest.raises(DataError) as caught:
        pool.map(ChatDataset(path, encoder=encoder).__getitem__, [1])
    assert (caught.value.file, caught.value.line) == (str(path), 2)
    assert str(caught.value).startswith(f'{path}:2: ')


def test_too_long_may_be_cut_but_not_into_pictures(root, encoder):
    encoder = copy.copy(encoder)
    encoder.too_long, encoder.max_length = 'truncate', 100
    wide = ask('fine', '<image>' * 12 + '?', ['sub/b.jpg'] * 12)
    path = write(root / 'a.jsonl', ask('x' * 600), wide)
    dataset = ChatDataset(path, encoder=encoder, on_error='skip')
    assert dataset.lengths.tolist() == [100, 100]
    assert len(dataset[0]) == 100
    assert dataset[1] is None
    assert dataset.skipped == {'length': 1}


@pytest.mark.parametrize('check', ['pictures', 'records'])
def test_the_largest_picture_is_a_setting(check, root, encoder):
    path = write(root / 'a.jsonl', ask('one'), ask('two', image='sub/b.jpg'))  # 1,200 and 2,700 pixels
    lowered = DATASETS.build(dict(type='ChatDataset', ann_file=str(path), max_pixels=1200, check=check, encoder=encoder,
                                  on_error='skip'))  # fmt: skip
    samples = [lowered[i] for i in range(len(lowered))]
    assert [sample.meta['line'] for sample in samples if sample is not None] == [1]
    assert lowered.skipped == {'picture': 1}
    with pytest.raises(DataError, match='at most 2,699 pixels'):
        ChatDataset(path, encoder=encoder, max_pixels=2699, check=check)[1]
    assert ChatDataset(path, encoder=encoder, max_pixels=2700, check=check)[1].image_sizes == [(90, 30)]


def test_a_picture_above_the_usual_limit(root, encoder):
    # A header without pixels: that it is damaged shows only after the limit was passed.
    header = struct.pack('>II', 14_000, 14_000) + b'\x08\x02\x00\x00\x00'
    chunk = struct.pack('>I', 13) + b'IHDR' + header + struct.pack('>I', zlib.crc32(b'IHDR' + header))
    (root / 'huge.png').write_bytes(b'\x89PNG\r\n\x1a\n' + chunk + struct.pack('>I', 4) + b'IDAT')
    path = write(root / 'a.jsonl', ask(image='huge.png'))
    with pytest.raises(DataError, match=r'(?s)a\.jsonl:1: .*huge.*raise max_pixels'):
        ChatDataset(path, encoder=encoder)
    dataset = ChatDataset(path, encoder=encoder, max_pixels=200_000_000)
    assert dataset.lengths[0] > 0
    with pytest.raises(DataError, match='breaks off or is damaged'):
        dataset[0]


def test_checking_records_only_leaves_pictures_for_later(root, encoder):
    path = write(root / 'a.jsonl', ask(), ask(image='gone.png'))
    dataset = ChatDataset(path, encoder=encoder, check='records')
    assert len(dataset) == 2
    with pytest.raises(DataError, match=r'a\.jsonl:2: .*no such picture'):
        dataset[1]
    with pytest.raises(DataError, match=r'a\.jsonl:2: .*no such picture'):
        dataset.lengths  # noqa: B018
    with pytest.raises(DataError, match=r'b\.jsonl:1: .*is an empty answer'):
        ChatDataset(write(root / 'b.jsonl', ask('')), check='records')
    skipping = ChatDataset(path, encoder=encoder, check='records', on_error='skip')
    assert skipping[1] is None
    assert skipping.skipped == {'picture': 1}


@pytest.mark.parametrize(
    ('kwargs', 'words'),
    [
        (dict(), 'neither of'),
        (dict(ann_file='a', meta_file='b'), 'both'),
        (dict(ann_file='a', on_error='ignore'), "'raise' or 'skip'"),
        (dict(ann_file='a', check='all'), "'pictures' or 'records'"),
        (dict(ann_file='a', repeat_time=0), 'above 0'),
        (dict(ann_file='a', max_samples=0), 'from 1'),
        (dict(ann_file='a', max_pixels=1e9), 'max_pixels 1000000000.0'),
        (dict(ann_file='a', max_pixels=0), 'max_pixels 0'),
    ],
)
def test_wrong_arguments(kwargs, words):
    with pytest.raises(ConfigError, match=words):
        ChatDataset(**kwargs)


def test_wrong_format_and_root(good):
    with pytest.raises(ConfigError, match="named 'lava'"):
        ChatDataset(good, format='lava')
    with pytest.raises(DataError, match='not a folder'):
        ChatDataset(good, image_root=good)


# Repeats, mixtures ----------------------------------------------------------------------------------------------------


def numbered(path, n, prefix=''):
    return write(path, *[ask(f'{prefix}{i}', 'Hi', None) for i in range(n)])


def answers(dataset):
    return [dataset.ground_truth(i) for i in range(len(dataset))]


def test_fractional_repeat_time(tmp_path):
    # Bug of XTuner: the fraction is dropped; InternVL takes the first half of the file.
    path = numbered(tmp_path / 'a.jsonl', 10)
    half = answers(ChatDataset(path, repeat_time=0.5))
    assert len(half) == len(set(half)) == 5
    assert half == answers(ChatDataset(path, repeat_time=0.5))
    assert half != answers(ChatDataset(path, repeat_time=0.5, seed=1))
    more = answers(ChatDataset(path, repeat_time=2.5))
    assert sorted(more) == sorted([str(i) for i in range(10)] * 2 + half)
    assert len(ChatDataset(path, repeat_time=0.29, max_samples=5)) == 2
    with pytest.raises(ConfigError, match='no samples'):
        ChatDataset(path, repeat_time=0.05)


def test_max_samples_is_a_seeded_choice_in_order(tmp_path):
    path = numbered(tmp_path / 'a.jsonl', 50)
    some = answers(ChatDataset(path, max_samples=10))
    assert len(set(some)) == 10
    assert [int(a) for a in some] == sorted(map(int, some))
    assert some == answers(ChatDataset(path, max_samples=10)) != answers(ChatDataset(path, max_samples=10, seed=1))


def test_meta_file(root, encoder, tmp_path, monkeypatch):
    write(root / 'a.jsonl', ask('a0'), ask('a1', 'No placeholder.', 'sub/b.jpg'))
    write(
        tmp_path / 'hf.jsonl', {'messages': [{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'h0'}]}
    )
    meta = {
        'food': {'root': str(root), 'annotation': str(root / 'a.jsonl'), 'repeat_time': 2, 'length': 2},
        'chat': {'root': str(tmp_path), 'annotation': 'hf.jsonl', 'repeat_time': 1, 'data_augment': False},
        'few': {'root': 'food', 'annotation': 'food/a.jsonl', 'repeat_time': 0.5, 'max_dynamic_patch': 1},
    }
    (tmp_path / 'meta.json').write_text(json.dumps(meta))
    monkeypatch.chdir(root)  # relative paths that are not here are found beside the meta file
    dataset = ChatDataset(meta_file=tmp_path / 'meta.json', encoder=encoder)
    found = answers(dataset)
    assert found[:5] == ['a0', 'a1', 'a0', 'a1', 'h0']
    assert len(found) == 6
    assert dataset.record(1).messages[0]['content'] == '<image>\nNo placeholder.'
    assert dataset[1].num_tiles == [4]  # three tiles side by side and a thumbnail
    full = ChatDataset(
        meta_file={
            **meta,
            'few': {**meta['few'], 'root': str(root), 'annotation': str(root / 'a.jsonl'), 'repeat_time': 1},
            'chat': {**meta['chat'], 'annotation': str(tmp_path / 'hf.jsonl')},
        },
        encoder=encoder,
    )
    assert full[6].num_tiles == [1]  # the third set cuts nothing
    assert full.lengths.tolist() == [len(full[i]) for i in range(len(full))]
    assert dataset.encoder is encoder


def test_weights_keep_the_epoch_as_long_as_the_sets(tmp_path):
    numbered(tmp_path / 'a.jsonl', 30, 'a')
    numbered(tmp_path / 'b.jsonl', 10, 'b')
    meta = {
        n: {'root': str(tmp_path), 'annotation': str(tmp_path / f'{n}.jsonl'), 'weight': w}
        for n, w in (('a', 1), ('b', 3))
    }
    found = answers(ChatDataset(meta_file=meta))
    assert len(found) == 40
    share = [a for a in found if a[0] == 'b']
    assert len(share) == 30
    assert all(share.count(f'b{i}') == 3 for i in range(10))
    assert len({a for a in found if a[0] == 'a'}) == 10


@pytest.mark.parametrize(
    ('entry', 'words'),
    [
        ({}, 'has no `annotation`'),
        ({'repeat_time': 0}, 'above 0'),
        ({'repeat_time': '2'}, "`repeat_time` of the set 'x' is '2'"),
        ({'repeat_times': 2}, "did you mean 'repeat_time'"),
        ({'length': 4}, 'holds 3 records, the meta file says 4'),
        ({'max_dynamic_patch': 0}, 'a whole number from 1'),
        ({'weight': 1, 'repeat_time': 2}, 'either a `weight`'),
        ({'annotation': 'gone.jsonl'}, 'no such annotation file'),
        ({'root': 'nowhere'}, 'not a folder'),
        ({'format': 'lava'}, "named 'lava'"),
        ({'annotation': 3}, '`annotation` of the set'),
        ({'root': ['food']}, '`root` of the set'),
        ({'repeat_time': 0.2}, 'no samples: 3 records, repeat_time 0.2'),
    ],
)
def test_bad_meta_entries(entry, words, tmp_path):
    path = numbered(tmp_path / 'a.jsonl', 3)
    meta = {'x': {'annotation': str(path), **entry} if entry else {}}
    (tmp_path / 'meta.json').write_text(json.dumps(meta))
    with pytest.raises((DataError, ConfigError), match=words) as caught:
        ChatDataset(meta_file=tmp_path / 'meta.json')
    assert str(tmp_path / 'meta.json') in str(caught.value)
    assert "'x'" in str(caught.value)
    with pytest.raises((DataError, ConfigError), match=words) as caught:
        ChatDataset(meta_file=meta)
    assert "'x'" in str(caught.value)


def test_too_small_a_share_names_its_set(tmp_path):
    paths = {name: str(numbered(tmp_path / f'{name}.jsonl', size)) for name, size in (('a', 99), ('b', 2))}
    meta = {name: {'annotation': path, 'weight': 99 if name == 'a' else 0.1} for name, path in paths.items()}
    with pytest.raises(
        ConfigError, match=r"the set 'b' of `meta_file` would give no samples: 2 records, weight 0\.1 of"
    ):
        ChatDataset(meta_file=meta)
    with pytest.raises(ConfigError, match=r'b\.jsonl would give no samples: 2 records, repeat_time 0.1'):
        ChatDataset(paths['b'], repeat_time=0.1)


def test_a_meta_file_that_is_none(tmp_path):
    for text, words in (('[]', 'holds a list'), ('{}', 'without entries'), ('{', 'invalid JSON at line 1')):
        (tmp_path / 'meta.json').write_text(text)
        with pytest.raises(DataError, match=words):
            ChatDataset(meta_file=tmp_path / 'meta.json')


# Workers, resume ------------------------------------------------------------------------------------------------------


def stream(dataset, encoder, workers, start=0, context=None):
    sampler = EpochBatchSampler(dataset, 2, seed=3, group_by_length=True, rank=0, world_size=1)
    collate = PadCollator(encoder.pad_token_id)
    kwargs = dict(num_workers=workers, multiprocessing_context=context if workers else None)
    loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=collate, **kwargs)
    sampler.set_epoch(1)
    sampler.set_start(start)
    return list(loader)


def same(a, b):
    assert len(a) == len(b) > 0
    for x, y in zip(a, b, strict=True):
        assert x.keys() == y.keys()
        for key in x:
            equal = torch.equal(x[key], y[key]) if torch.is_tensor(x[key]) else x[key] == y[key]
            assert equal, key


@pytest.fixture
def many(root, encoder):
    records = [ask(str(i), image=('a.png', 'sub/b.jpg', 'c.png')[i % 3]) for i in range(9)]
    return ChatDataset(write(root / 'many.jsonl', *records, ask('t', 'Hi', None)), encoder=encoder)


def test_two_workers_give_what_none_gives(many, encoder):
    same(stream(many, encoder, 0), stream(many, encoder, 2))


def test_spawned_workers(many, encoder):
    same(stream(many, encoder, 0), stream(many, encoder, 1, context='spawn'))


def test_resume_in_mid_epoch(many, encoder):
    whole = stream(many, encoder, 0)
    for start, workers in ((1, 0), (3, 2)):
        same(whole[start:], stream(many, encoder, workers, start))


def test_pickling(many):
    twin = pickle.loads(pickle.dumps(many))
    assert torch.equal(twin[4].pixel_values, many[4].pixel_values)
    assert (twin.lengths == many.lengths).all()


def test_many_records_are_checked_in_parallel(root, encoder, monkeypatch):
    monkeypatch.setattr('mmft.data.records.dataset._PARALLEL_FROM', 100)
    monkeypatch.setattr('mmft.data.records.dataset._cores', lambda: 2)
    state = torch.get_rng_state()
    lines = [ask(str(i)) if i % 50 else ask('') for i in range(200)]
    dataset = ChatDataset(write(root / 'a.jsonl', *lines), encoder=encoder, on_error='skip')
    assert answers(dataset) == [str(i) for i in range(200) if i % 50]
    assert [(p.file, p.line) for p in dataset.problems] == [(str(root / 'a.jsonl'), n) for n in (1, 51, 101, 151)]
    assert dataset.lengths[7] == len(dataset[7])
    assert torch.equal(torch.get_rng_state(), state)
