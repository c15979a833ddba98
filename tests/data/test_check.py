"""Looking a data set over: faults put into it on purpose are all found, counted and placed, and nothing else is."""

from __future__ import annotations

import json
import re

import pytest
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mmft.data.check import KINDS, source_of, survey
from mmft.data.check.page import choose, page
from mmft.data.check.report import histogram, text, to_json
from mmft.data.encoder import ChatEncoder
from mmft.data.pictures.tilers import AnyResTiler, DynamicTiler
from mmft.data.records.dataset import ChatDataset
from mmft.data.text.templates import build_template
from mmft.errors import ConfigError
from mmft.words import count_of

SPECIAL = ['<s>', '</s>', '<unk>', '<|im_start|>', '<|im_end|>', '<img>', '</img>', '<IMG_CONTEXT>']


def make_encoder(template='internlm2-chat', unknown=False, **changes):
    """A real encoder over a tokenizer of single bytes: 32 px tiles of 4 tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if unknown:
        alphabet.remove('z')
    backend = Tokenizer(models.BPE({t: i for i, t in enumerate(SPECIAL + alphabet)}, [], unk_token='<unk>'))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token='</s>', bos_token='<s>', unk_token='<unk>')
    tokenizer.add_special_tokens({'additional_special_tokens': SPECIAL[3:]})
    options = {'image_processor': DynamicTiler(tile_size=32, max_tiles=4), 'tokens_per_tile': 4, 'max_length': 500}
    return ChatEncoder(tokenizer, template, **{**options, **changes})


@pytest.fixture(scope='module')
def encoder():
    return make_encoder()


def ask(n, answer='A dish.', image='a.png', question='<image>\nWhat is it?', **keys):
    record = {
        'id': n,
        'conversations': [{'from': 'human', 'value': question}, {'from': 'gpt', 'value': answer}],
        **keys,
    }
    return {'image': image, **record} if image is not None else record


def write(path, *records):
    lines = [r if isinstance(r, str) else json.dumps(r) for r in records]
    path.write_text('\n'.join(lines) + '\n', encoding='utf-8')
    return path


@pytest.fixture
def root(tmp_path):
    for name, size in (('a', (40, 30)), ('b', (90, 30)), ('c', (30, 90)), ('d', (60, 60))):
        Image.new('RGB', size, (200, 30, 40)).save(tmp_path / f'{name}.png')
    Image.new('RGB', (1, 1)).save(tmp_path / 'dot.png')
    (tmp_path / 'text.jpg').write_text('not a picture')
    noise = Image.effect_noise((64, 64), 90).convert('RGB')
    noise.save(tmp_path / 'cut.png')
    (tmp_path / 'cut.png').write_bytes((tmp_path / 'cut.png').read_bytes()[:3000])
    return tmp_path


def look_at(path, encoder=None, val=None, **options):
    sources = [source_of({'ann_file': str(path), **options.pop('dataset', {})})]
    if val is not None:
        sources.append(source_of({'ann_file': str(val)}, 'val'))
    return survey(sources, encoder, **options)


def found(result):
    """kind -> lines, over all groups."""
    lines = {}
    for group in result.groups:
        lines.setdefault(group.kind, []).extend(line for _, _, line, _ in group.places)
    return lines


def test_a_good_set(root, encoder):
    path = write(
        root / 'a.jsonl', ask(1), ask(2, 'Rice', ['b.png', 'c.png'], '<image><image> Which?'), ask(3, 'x', None, 'Hi')
    )
    result = look_at(path, encoder)
    assert result.problems() == 0
    (part,) = result.parts
    assert part.good() == len(part) == 3
    assert part.tiles == [1, 6, 0]
    assert part.tokens == [len(part.subset.encode(i)) for i in range(3)]
    assert part.trained == [len('A dish.') + 1, len('Rice') + 1, 2]
    assert part.answers == {'A dish.': 1, 'Rice': 1, 'x': 1}
    assert 'no problems' in text(result)


@pytest.mark.parametrize('workers', [0, 2])
def test_every_fault_is_found_at_once(root, encoder, workers):
    faults = {
        2: ('record', '{"image": "a.png", "conversations": ['),
        3: ('record', json.dumps(ask(3)).replace('"id": 3', '"id": 3, "id": 4')),
        4: ('record', ask(4, '')),
        5: ('record', ask(5, question='no place')),
        6: ('picture', ask(6, image='gone.png')),
        7: ('picture', ask(7, image='text.jpg')),
        8: ('picture', ask(8, image='dot.png')),
        9: ('picture', ask(9, image='cut.png')),
        10: ('length', ask(10, 'x' * 600)),
        11: ('early-end', ask(11, 'One<|im_end|>Two')),
        12: ('duplicate-id', ask(1, 'Another')),
        13: ('duplicate-record', ask(13)),
        14: ('record', ask(14, question='<image> <IMG_CONTEXT>')),
    }
    path = write(root / 'a.jsonl', ask(1), *(record for _, record in faults.values()), ask(99, 'Fine.'))
    result = look_at(path, encoder, workers=workers)
    expected = {}
    for line, (kind, _) in faults.items():
        expected.setdefault(kind, []).append(line)
    assert {kind: sorted(lines) for kind, lines in found(result).items()} == expected
    assert result.problems() == len(faults)
    assert result.problems(allow=['record', 'picture']) == 4
    assert result.parts[0].good() == len(result.parts[0]) - len(faults) == 2
    assert result.good(allow=['record', 'picture']) == 2 + sum(
        kind in ('record', 'picture') for kind, _ in faults.values()
    )
    assert all(group.fix for group in result.groups)
    report = text(result, places=50)
    assert all(f'{path}:{line}' in report for line in faults)


def test_several_broken_pictures_of_one_record_are_all_named(root, encoder):
    path = write(root / 'a.jsonl', ask(1, image=['gone.png', 'a.png', 'cut.png', 'lost.png'], question='<image>' * 4))
    result = look_at(path, encoder)
    named = [what.split(': ')[0] for group in result.groups for *_, what in group.places]
    assert sorted(named) == sorted(str(root / name) for name in ('gone.png', 'cut.png', 'lost.png'))
    kinds = [(group.what.split(': ')[1], len(group.places)) for group in result.groups]
    assert kinds[0] == ('no such picture', 2)


def test_headers_only_does_not_decode(root, encoder):
    path = write(root / 'a.jsonl', ask(1, image='cut.png'), ask(2, image='gone.png'), ask(3, 'x' * 600))
    result = look_at(path, encoder, decode=False)
    assert found(result) == {'picture': [2], 'length': [3]}
    assert result.parts[0].tokens[0] > 0
    assert result.parts[0].tiles == [5, -1, 1]
    assert '--headers' in text(result)


def test_without_an_encoder(root):
    path = write(
        root / 'a.jsonl', ask(1), ask(2, image='cut.png'), ask(3, image=['gone.png', 'cut.png'], question='<image>' * 2)
    )
    result = look_at(path)
    assert found(result) == {'picture': [2, 3, 3]}
    assert result.parts[0].tokens == [-1, -1, -1]
    assert to_json(result)['tokens'] is None
    assert 'There is no encoder' in page(result, 'x')


@pytest.mark.parametrize('known', [True, False])
def test_the_largest_picture_is_the_datasets(known, root, encoder):
    path = write(root / 'a.jsonl', ask(1))
    with Image.open(root / 'a.png') as image:
        pixels = image.width * image.height
    encoder = encoder if known else None
    assert not look_at(path, encoder, dataset={'max_pixels': pixels}).groups
    assert found(look_at(path, encoder, dataset={'max_pixels': pixels - 1})) == {'picture': [1]}
    with pytest.raises(ConfigError, match="max_pixels '9'"):
        source_of({'ann_file': str(path), 'max_pixels': '9'})


def test_answers_that_never_end(root):
    endless = build_template(dict(type='internlm2-chat', end='', tail=''))
    result = look_at(write(root / 'a.jsonl', ask(1), ask(2, 'b')), make_encoder(endless))
    assert found(result) == {'no-end': [1, 2]}
    assert "trained without 'an end token'" in result.groups[0].what
    # An end that is ordinary text is an end.
    plain = build_template(dict(type='internlm2-chat', end='\n', tail=''))
    assert not look_at(root / 'a.jsonl', make_encoder(plain)).groups


def test_answers_that_are_cut_off(root):
    path = write(root / 'a.jsonl', ask(1), ask(2, 'x' * 600))
    result = look_at(path, make_encoder(too_long='truncate'))
    assert found(result) == {'no-end': [2]}
    assert 'cut off at max_length=500' in result.groups[0].what
    assert '1 longer than max_length=500 (cut off)' in text(result)
    result = look_at(path, make_encoder(too_long='truncate', max_length=40))
    assert found(result) == {'length': [1, 2]}  # cutting would leave nothing to learn


def test_text_that_the_tokenizer_cannot_write(root):
    path = write(root / 'a.jsonl', ask(1, 'pizza'), ask(2))
    result = look_at(path, make_encoder(unknown=True))
    assert found(result) == {'unknown-token': [1]}


def test_pictures_in_train_and_val(root, encoder):
    train = write(root / 'a.jsonl', ask(1), ask(2, image='b.png'))
    val = write(root / 'v.jsonl', ask(1, 'x', 'b.png'), ask(2, 'y', 'c.png'))
    result = look_at(train, encoder, val)
    assert found(result) == {'shared-picture': [1]}
    assert result.groups[0].places[0][:2] == ('val', str(val))
    assert f'trained on in {train}:2' in result.groups[0].what


def test_files_that_cannot_be_opened_are_problems_among_others(root, encoder):
    train = write(root / 'a.jsonl', ask(1, ''))
    result = look_at(train, encoder, root / 'nothing.jsonl')
    assert {group.kind for group in result.groups} == {'file', 'record'}
    result = look_at(write(root / 'b.json', '[{"id": 1, "conversations": []}, {"x": ]'), encoder)
    assert len(result.groups) == 2
    result = look_at(train, encoder, dataset={'image_root': str(root / 'no')})
    assert 'the image root is not a folder' in result.groups[0].what
    assert 'no problems' not in text(result)


def test_meta_files(root, encoder):
    write(root / 'a.jsonl', ask(1))
    write(root / 'b.jsonl', ask(1, 'b', 'b.png'), ask(2, ''))
    entry = {name: {'root': str(root), 'annotation': str(root / f'{name}.jsonl')} for name in 'ab'}
    entry['b']['max_dynamic_patch'] = 1
    result = survey([source_of({'meta_file': entry})], encoder)
    assert [(part.name, len(part), part.good(), part.tiles[0]) for part in result.parts] == [
        ('a', 1, 1, 1),
        ('b', 2, 1, 1),
    ]


def test_other_datasets_are_refused():
    for config, words in (
        ({'type': 'Mine'}, 'of type'),
        ({}, 'neither'),
        ({'ann_file': 'a', 'meta_file': 'b'}, 'both'),
    ):
        with pytest.raises(ConfigError, match=words):
            source_of(config)


def test_json(root, encoder):
    path = write(
        root / 'a.jsonl',
        *(ask(n, 'OK' if n % 3 else 'NG', image='abcd'[n % 4] + '.png', question=f'<image>{n}') for n in range(12)),
        ask(99, ''),
    )
    content = json.loads(json.dumps(to_json(look_at(path, encoder), ['picture'])))
    assert content['ok'] is False
    assert (content['records'], content['good']) == (13, 12)
    assert content['files'] == [{'part': 'train', 'name': '', 'file': str(path), 'records': 13, 'good': 12}]
    (problem,) = content['problems']
    assert problem['kind'] in KINDS
    assert problem['places'] == [{'part': 'train', 'file': str(path), 'line': 13, 'what': problem['what']}]
    assert content['answers']['train']['most_common'] == [['OK', 8], ['NG', 4]]
    assert content['tiles']['counts'] == [3, 0, 0, 6, 3]  # 1, 4 and 5 tiles
    assert content['too_long'] == 0


def test_class_balance_is_said(root):
    path = write(root / 'a.jsonl', *(ask(n, 'NG' if n == 0 else 'OK', question=f'<image>{n}') for n in range(9)))
    report = text(look_at(path))
    assert '2 different last answers in 9 records; the most frequent is 8.0 times as frequent' in report


@pytest.mark.parametrize(
    'numbers', [[5], [0, 0, 0], list(range(1000)), [10] * 50 + [9000], [1, 1_000_000], [-1, 7, 12]]
)
def test_histograms_hold_every_number_once(numbers):
    made = histogram(numbers)
    known = [n for n in numbers if n >= 0]
    assert sum(made.counts) == len(known)
    assert len(made.counts) <= 18
    for low, high, count in made.rows():
        assert count == sum(low <= n and (high is None or n <= high) for n in known)
    assert (made.low, made.high) == (min(known), max(known))
    assert histogram([-1]) is None


def test_the_page(root, encoder):
    hostile = '<script>alert(1)</script>'
    path = write(
        root / 'a.jsonl',
        ask(1, image='b.png'),
        ask(2, hostile, 'd.png'),
        ask(3, 'x', None, 'Hi & bye'),
        ask(4, image='gone.png'),
    )
    result = look_at(path, encoder)
    made = page(result, 'a & b')
    assert '<script>alert' not in made
    assert '&lt;script&gt;alert(1)&lt;/script&gt;' in made
    assert 'src="http' not in made
    assert 'href=' not in made
    assert made.count('<article>') == 3  # the good ones
    assert made.count('class="tile"') == 4 + 5  # a grid of 3 or 4, and the whole
    assert '90 x 30 px → 3 x 1 + whole' in made
    assert '<mark>A dish.<span class="token">&lt;|im_end|&gt;</span></mark>' in made
    assert '16 picture tokens' in made
    assert 'gone.png: no such picture' in made
    assert '>1 problem<' in made
    assert '>in 1 record<' in made
    assert '<b>3</b>' in made  # without a problem
    assert [(i, why) for _, i, why in choose(result, 3)] == [
        (1, 'the most tokens'),
        (0, 'the most pictures'),
        (2, 'the fewest tokens'),
    ]


def test_the_page_shows_llavas_base_tile_as_the_whole(root):
    tiler = AnyResTiler([(64, 32), (32, 64)], tile_size=32, mode='flat')
    result = look_at(write(root / 'a.jsonl', ask(1, image='b.png')), make_encoder(image_processor=tiler))
    assert result.parts[0].tiles == [3]
    made = page(result, 'x')
    assert '2 x 1 + whole' in made
    assert made.index('class="tiles"') < made.index('class="whole"')


def test_keys_that_nothing_reads_are_counted(root, encoder, caplog):
    path = write(root / 'a.jsonl', ask(1, hint='x'), ask(2, 'b', hint='y'), ask(3, 'c', sytem='Be short'))
    result = look_at(path, encoder)
    assert found(result) == {'unread-key': [1, 2, 3]}
    assert [group.what for group in result.groups] == [
        '`hint` is not read',
        '`sytem` (did you mean `system`?) is not read',
    ]
    assert not look_at(path, encoder, dataset={'ignore_keys': ['hint', 'sytem']}).groups
    with caplog.at_level('WARNING', 'mmft'):
        ChatDataset(str(path), encoder=encoder)
    assert f'2 records of {path}: `hint` is not read' in caplog.text
    assert f'1 record of {path}: `sytem` (did you mean `system`?)' in caplog.text
    caplog.clear()
    ChatDataset(str(path), encoder=encoder, ignore_keys=['hint', 'sytem'])
    assert not caplog.text


@pytest.mark.parametrize('template', ['internlm2-chat', 'vicuna_v1'])
def test_answers_marked_loss_false_are_context(template, root):
    encoder = make_encoder(template)
    turns = [{'role': role, 'content': text} for role, text in zip(['user', 'assistant'] * 2, 'ABCD', strict=True)]
    plain = encoder(turns)
    turns[1]['loss'] = False
    sample = encoder(turns)
    assert sample.input_ids.equal(plain.input_ids)
    first, last = (text for text, trained in encoder.describe(plain) if trained)
    assert [text for text, trained in encoder.describe(sample) if trained] == [last]
    assert 'B' in first


@pytest.mark.parametrize('allow', [[], ['duplicate-id']])
def test_the_counts_add_up_in_report_page_and_json(root, encoder, allow):
    train = write(
        root / 'a.json', json.dumps([ask(1), ask(1, 'b', 'b.png'), ask(2, '', 'c.png'), ask(3, 'c', 'c.png')])
    )
    val = write(root / 'v.jsonl', ask(1, 'x', 'b.png'))
    result = look_at(train, encoder, val)
    assert found(result) == {'record': [1], 'duplicate-id': [1], 'shared-picture': [1]}
    good = 2 + len(allow)
    report, made, content = text(result, allow), page(result, 'x', allow), to_json(result, allow)
    assert '3 problems of 3 kinds in 3 of 5 records:' in report
    assert re.search(rf'in all +5 +{good}\n', report)
    assert f'>{3 - len(allow)} problems<' in made
    assert f'>in {count_of(5 - good, "record")}<' in made
    assert '<b>5</b><span><span class="t" lang="en">records<' in made
    assert f'<b>{good}</b><span><span class="t" lang="en">without a problem<' in made
    assert (content['records'], content['good'], content['ok']) == (5, good, False)
    assert sum(file['good'] for file in content['files']) == good
    assert 'val: 1 last answer in 1 record\n' in report
    assert '1 last answer<' in made


def test_a_page_without_problems(root, encoder):
    made = page(look_at(write(root / 'a.jsonl', ask(1)), encoder), 'x')
    assert '<b><span class="t" lang="en">no problems</span>' in made
    assert 'in all' not in made


def test_bars_are_shares_of_the_whole_and_few_places_are_shown(root, encoder):
    path = write(root / 'a.jsonl', *(ask(n, 'ab'[n == 0], question=f'<image>{n}') for n in range(20)), ask(99, ''))
    made = page(look_at(path, encoder), 'x')
    assert re.findall(r'style="width:([\d.]+)%"', made) == ['95.0', '5.0']
    assert made.count('<details class="problem" open>') == 1
    write(path, *(ask(n, '') for n in range(20)))
    assert '<details class="problem">' in page(look_at(path, encoder), 'x')


def test_page_and_terminal_have_the_same_steps(root, encoder):
    path = write(root / 'a.jsonl', *(ask(n, 'x' * n * 7, question=f'<image>{n}') for n in range(1, 60)))
    result = look_at(path, encoder)
    bars = re.findall(r'<title>(\d+) to \d+: (\d+)</title>', page(result, 'x'))
    rows = re.findall(r'^ +(\d+) - \d+ +(\d+)', text(result).partition('tokens of a record')[2], re.MULTILINE)
    assert bars == rows
