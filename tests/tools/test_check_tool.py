"""tools/data/check.py and `mmft check-data`: exit statuses, files, and a config's own encoder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mmft.cli.main import main

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / 'tools' / 'data'


def talk(n, answer, image):
    turns = [{'from': 'human', 'value': '<image>\n这是什么菜？'}, {'from': 'gpt', 'value': answer}]
    return json.dumps({'id': n, 'image': image, 'conversations': turns}, ensure_ascii=False)


@pytest.fixture
def data(kit, tmp_path):
    for n in range(4):
        kit.picture(tmp_path / f'{n}.jpg', (60 + n, 40))
    for part, numbers in (('train', (0, 1, 2)), ('val', (3,))):
        text = '\n'.join(talk(n, '肠粉', f'{n}.jpg') for n in numbers)
        (tmp_path / f'{part}.jsonl').write_text(text, encoding='utf-8')
    return tmp_path


def check(data, *more):
    """With the config of the demo, and the tokenizer that the demo has."""
    options = [f'+encoder.tokenizer={ROOT / "tools/demo_food/tokenizer"}']
    options += [f'{p}_dataloader.dataset.ann_file={data / f"{p}.jsonl"}' for p in ('train', 'val')]
    options += [f'{p}_dataloader.dataset.image_root={data}' for p in ('train', 'val')]
    return main(['check-data', 'internvl2_tiny_food_lora', *more, '--cfg-options', *options])


def test_a_config(data, capsys):
    assert check(data, '--page', str(data / 'p' / 'page.html'), '--json', str(data / 'r.json')) == 0
    printed = capsys.readouterr().out
    assert 'no problems' in printed
    assert 'max_length=1,024' in printed
    report = json.loads((data / 'r.json').read_text())
    assert report['ok'] is True
    assert [file['records'] for file in report['files']] == [3, 1]
    page = (data / 'p' / 'page.html').read_text()
    assert page.count('<article>') == 4
    assert '<mark>肠粉' in page


def test_problems_make_the_status_1(data, capsys):
    (data / '2.jpg').unlink()
    assert check(data, '--part', 'train', '--json', '-') == 1
    printed = capsys.readouterr()
    assert json.loads(printed.out)['problems'][0]['places'][0]['line'] == 3
    assert 'x picture:' in printed.err
    assert check(data, '--part', 'val') == 0
    assert check(data, '--allow', 'picture') == 0
    assert 'allowed: --allow picture' in capsys.readouterr().out


def test_without_a_config(data, capsys):
    assert main(['check-data', '--ann-file', str(data / 'train.jsonl'), '--image-root', str(data)]) == 0
    assert 'tokens of a record' not in capsys.readouterr().out
    files = [str(data / 'train.jsonl'), str(data / 'val.jsonl')]
    (data / 'val.jsonl').write_text(talk(1, 'x', '1.jpg'))
    assert main(['check-data', '--ann-file', *files, '--image-root', str(data)]) == 1
    assert '1 x shared-picture' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        ([], 'a config, or --ann-file'),
        (['internvl2_tiny_food_lora', '--allow', 'pictures'], '--allow pictures'),
        (['no_such_config'], 'no config'),
        (
            ['internvl2_tiny_food_lora', '--cfg-options', 'pretrained=/nowhere'],
            '--ann-file FILE --image-root FOLDER alone',
        ),
    ],
)
def test_wrong_arguments(arguments, words, capsys):
    assert main(['check-data', *arguments]) == 1
    assert words in capsys.readouterr().err


def test_no_tool_imports_torch_for_its_help():
    files = sorted(str(path) for path in TOOLS.glob('*.py'))
    assert len(files) >= 7
    code = (
        'import runpy, sys\n'
        'for file in sys.argv[1:]:\n'
        '    sys.argv = [file, "--help"]\n'
        '    try: runpy.run_path(file, run_name="__main__")\n'
        '    except SystemExit as stop: assert stop.code == 0, file\n'
        'assert not {"torch", "numpy", "PIL"} & set(sys.modules), "heavy"\n'
    )
    done = subprocess.run([sys.executable, '-c', code, *files], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('usage:') == len(files)
