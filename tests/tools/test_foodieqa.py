"""mmft data foodieqa on a made-up release of the same file layout."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from mmft.cli.main import main
from mmft.data.records.dataset import ChatDataset

TOOL = Path(__file__).parents[2] / 'tools' / 'data' / 'foodieqa.py'
DISHES = [
    '肠粉',
    '叉烧',
    '苏式红烧肉',
    '烤羊肉串',
    '麻婆豆腐',
    '臭鳜鱼',
    '佛跳墙',
    '热干面',
    '过桥米线',
    '锅包肉',
    '羊肉泡馍',
    '小笼包',
]


@pytest.fixture(scope='module')
def tool():
    return SimpleNamespace(main=lambda argv: main(['data', 'foodieqa', *argv]))


def single(n, dish, kind='cuisine_type'):
    return {
        'question': '图片中的食物通常属于哪个菜系?',
        'choices': ['京菜', '徽菜', '新疆菜', '粤菜'],
        'answer': str(n % 4),
        'question_type': kind,
        'food_name': dish,
        'question_id': f'vqa-{n}',
        'food_meta': {
            'main_ingredient': ['肉', '米'],
            'id': n,
            'food_name': dish,
            'food_type': '粤菜',
            'food_location': '餐馆',
            'food_file': f'images/{DISHES.index(dish)}_IMG.jpeg',
        },
        'question_en': 'Which cuisine is the food in the picture?',
        'choices_en': ['Beijing', 'Anhui', 'Xinjiang', 'Cantonese'],
    }


def multi(n, dishes):
    return {
        'question': '哪一道菜中含有干贝？',
        'choices': '',
        'answer': str(n % 4),
        'question_type': 'ingredients',
        'question_id': f'5cff42e986afc707_{n}',
        'ann_group': '闽',
        'images': [f'images/{DISHES.index(d)}_IMG.jpeg' for d in dishes],
        'question_en': 'Which dish contains dried scallops?',
    }


def text(n, dish):
    return {
        'question': f'{dish}是基于以下哪一种食材制作的?',
        'choices': ['七分精瘦肉和三分肥肉', '五花肉', '猪蹄', '猪排骨'],
        'answer': '1',
        'question_type': 'main-ingredient',
        'food_name': dish,
        'cuisine_type': '苏菜',
        'question_id': f'textqa-{n}',
    }


@pytest.fixture
def release(tmp_path):
    root = tmp_path / 'release'
    (root / 'images').mkdir(parents=True)
    for n in range(len(DISHES)):
        Image.new('RGB', (40 + n, 30), (20 * n, 50, 90)).save(root / 'images' / f'{n}_IMG.jpeg')
    dump(root / 'sivqa_tidy.json', [single(n, DISHES[n // 2]) for n in range(24)])
    dump(root / 'mivqa_tidy.json', [multi(n, DISHES[8:] if n % 2 else DISHES[4:8]) for n in range(4)])
    dump(root / 'textqa_tidy.json', [text(n, dish) for n, dish in enumerate(DISHES)])
    return root


def dump(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False, indent=4), encoding='utf-8')


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()]


def by_id(out):
    return {
        r['id']: r
        for name in ('train', 'val')
        if (out / f'{name}.jsonl').exists()
        for r in lines(out / f'{name}.jsonl')
    }


def test_all_tasks(tool, release, tmp_path, capsys):
    out = tmp_path / 'out'
    assert tool.main([str(release), str(out), '--val', '0.25', '--language', 'both']) == 0
    report = json.loads((out / 'report.json').read_text())
    total = {
        k: sum(part.get(k, 0) for part in report['counts'].values())
        for k in {k for p in report['counts'].values() for k in p}
    }
    assert total == {'single/zh': 24, 'single/en': 24, 'multi/zh': 4, 'multi/en': 4, 'text/zh': 12, 'name/zh': 12}
    assert report['left_out'] == {'text: not in en': 12, 'name: not in en': 24}
    records = by_id(out)
    assert records['single/vqa-6/zh']['conversations'] == [
        {
            'from': 'human',
            'value': '<image>\n图片中的食物通常属于哪个菜系?\nA. 京菜\nB. 徽菜\nC. 新疆菜\nD. 粤菜\n'
            '请直接回答正确选项的字母。',
        },
        {'from': 'gpt', 'value': 'C'},
    ]
    assert records['single/vqa-6/zh']['image'] == 'images/3_IMG.jpeg'
    assert records['single/vqa-6/en']['conversations'][0]['value'].splitlines()[4] == 'C. Xinjiang'
    assert records['multi/5cff42e986afc707_2/en']['conversations'][0]['value'].startswith('A: <image>\nB: <image>\nC:')
    assert records['multi/5cff42e986afc707_2/en']['conversations'][1]['value'] == 'C'
    assert len(records['multi/5cff42e986afc707_2/en']['image']) == 4
    assert 'image' not in records['text/textqa-0/zh']
    assert records['name/images/0_IMG.jpeg/zh']['conversations'][1]['value'] == '肠粉'
    printed = capsys.readouterr()
    assert 'left out: 12 (text: not in en)' in printed.out
    assert f"image_root='{release}'" in printed.out
    assert 'training models on it' in ' '.join(printed.err.split())


def test_the_dataset_reads_it(tool, release, tmp_path):
    assert tool.main([str(release), str(tmp_path / 'out'), '--val', '0.25']) == 0
    for name in ('train', 'val'):
        dataset = ChatDataset(tmp_path / 'out' / f'{name}.jsonl', image_root=release)
        assert len(dataset) == len(lines(tmp_path / 'out' / f'{name}.jsonl')) > 0
        assert dataset.record(0).meta['id'] == dataset.record(0).raw['id']


@pytest.mark.parametrize('seed', ['0', '1', '2'])
def test_no_dish_and_no_picture_on_both_sides(tool, release, tmp_path, seed):
    out = tmp_path / 'out'
    assert tool.main([str(release), str(out), '--val', '0.3', '--seed', seed]) == 0
    sides = []
    for name in ('train', 'val'):
        records = lines(out / f'{name}.jsonl')
        images = {
            i for r in records if 'image' in r for i in ([r['image']] if isinstance(r['image'], str) else r['image'])
        }
        sides.append((images, {r['dish'] for r in records if 'dish' in r}))
    assert sides[0][0].isdisjoint(sides[1][0])
    assert sides[0][1].isdisjoint(sides[1][1])
    again = (out / 'val.jsonl').read_bytes()
    assert tool.main([str(release), str(out), '--val', '0.3', '--seed', seed]) == 0
    assert (out / 'val.jsonl').read_bytes() == again


@pytest.mark.parametrize(('answer', 'expected'), [('letter', 'B'), ('text', '五花肉'), ('both', 'B. 五花肉')])
def test_answers(tool, release, tmp_path, answer, expected):
    assert tool.main([str(release), str(tmp_path), '--task', 'text', '--answer', answer, '--val', '0']) == 0
    record = by_id(tmp_path)['text/textqa-3/zh']
    assert record['conversations'][1]['value'] == expected
    assert ('字母' in record['conversations'][0]['value']) == (answer != 'text')


def test_for_evaluation_only(tool, release, capsys):
    (release / 'train.jsonl').write_text('from an earlier call')
    assert tool.main([str(release), '--val', '1', '--task', 'single', 'name']) == 0
    assert not (release / 'train.jsonl').exists()
    assert len(lines(release / 'val.jsonl')) == 36
    assert capsys.readouterr().err == ''


def test_the_folder_around_the_release_will_do(tool, release, tmp_path):
    shutil.move(release, tmp_path / 'outer' / 'FoodieQA')
    assert tool.main([str(tmp_path / 'outer'), str(tmp_path / 'out'), '--task', 'text']) == 0


def test_an_id_that_occurs_twice_is_kept_apart(tool, release, tmp_path):
    dump(release / 'textqa_tidy.json', [text(0, DISHES[0]), text(0, DISHES[1])])
    assert tool.main([str(release), str(tmp_path), '--task', 'text', '--val', '0']) == 0
    assert set(by_id(tmp_path)) == {'text/textqa-0/zh', 'text/textqa-0#2/zh'}


def _change(file, n, **changes):
    def act(release):
        records = json.loads((release / file).read_text())
        records[n].update(changes)
        dump(release / file, [{k: v for k, v in r.items() if v is not None} for r in records])

    return act


def _meta(**changes):
    return lambda release: _change('sivqa_tidy.json', 1, food_meta={**single(1, '肠粉')['food_meta'], **changes})(
        release
    )


@pytest.mark.parametrize(
    ('damage', 'file', 'words'),
    [
        (_change('sivqa_tidy.json', 1, question=None), 'sivqa_tidy.json', '`question` is None'),
        (_change('sivqa_tidy.json', 1, choices=[]), 'sivqa_tidy.json', '`choices` is []'),
        (_change('sivqa_tidy.json', 1, choices_en=['a']), 'sivqa_tidy.json', "`choices_en` is ['a']"),
        (_change('sivqa_tidy.json', 1, answer='4'), 'sivqa_tidy.json', "`answer` is '4'"),
        (_change('sivqa_tidy.json', 1, answer='C'), 'sivqa_tidy.json', "`answer` is 'C'"),
        (_change('sivqa_tidy.json', 1, food_meta='x'), 'sivqa_tidy.json', '`food_meta.food_file` is None'),
        (_meta(food_file='images/gone.jpeg'), 'sivqa_tidy.json', 'gone.jpeg: no such picture'),
        (_meta(food_file='../secret.jpeg'), 'sivqa_tidy.json', 'outside the image root'),
        (_change('mivqa_tidy.json', 1, images=['a']), 'mivqa_tidy.json', "`images` is ['a']"),
        (_change('mivqa_tidy.json', 1, images=[1, 2]), 'mivqa_tidy.json', '`images` is [1, 2]'),
        (_change('textqa_tidy.json', 1, food_name=' '), 'textqa_tidy.json', "`food_name` is ' '"),
    ],
)
def test_bad_records_stop_it_or_are_counted(tool, release, tmp_path, capsys, damage, file, words):
    damage(release)
    arguments = [str(release), str(tmp_path / 'out'), '--language', 'both']
    assert tool.main(arguments) == 1
    error = capsys.readouterr().err
    task = {'sivqa': 'single', 'mivqa': 'multi', 'textq': 'text'}[file[:5]]
    assert words in error
    lines_of = (release / file).read_text().split('\n')
    line = int(error.split(f'{release / file}:')[1].split(':')[0])
    assert lines_of[line - 1].strip() == '{'
    assert not (tmp_path / 'out').exists()
    assert tool.main([*arguments, '--on-error', 'skip']) == 0
    assert f'left out: 1 ({task}: bad records)' in capsys.readouterr().out


def test_another_layout(tool, release, tmp_path, capsys):
    (release / 'mivqa_tidy.json').unlink()
    assert tool.main([str(release)]) == 1
    error = capsys.readouterr().err
    assert "without ['mivqa_tidy.json']" in error
    assert 'sivqa_tidy.json' in error.split('it holds')[1]
    assert tool.main([str(release), '--task', 'single']) == 0
    for source, words in (
        (tmp_path / 'nothing', 'no such folder'),
        (release / 'textqa_tidy.json', 'unpack FoodieQA.zip'),
    ):
        assert tool.main([str(source)]) == 1
        assert words in capsys.readouterr().err
    dump(release / 'textqa_tidy.json', {'0': [text(0, '肠粉')]})
    assert tool.main([str(release), '--task', 'text']) == 1
    (release / 'textqa_tidy.json').write_text('[{"question": ]')
    assert tool.main([str(release), '--task', 'text']) == 1
    assert 'invalid JSON at line 1 column 15' in capsys.readouterr().err


def test_nothing_to_write(tool, release, capsys):
    assert tool.main([str(release), '--task', 'text', '--language', 'en']) == 1
    assert 'no questions' in capsys.readouterr().err


def test_command_line():
    run = subprocess.run([sys.executable, TOOL, '--help'], capture_output=True, text=True, check=True)
    assert 'sivqa_tidy.json' in run.stdout
    for wrong in (['x', '--val', '2'], ['x', '--task', 'video'], []):
        run = subprocess.run([sys.executable, TOOL, *wrong], capture_output=True, text=True, check=False)
        assert run.returncode == 2
