"""Configs are found by name and changed only where they can be."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

import pytest

from mmft.cli.configs import apply_options, config_folders, find_config, load_config
from mmft.cli.options import add_cfg_options, parse_value
from mmft.errors import ConfigError

TEXT = """
lr = 1e-3
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=lr, betas=(0.9, 0.999)))
param_scheduler = [dict(type='LinearLR', end=2), dict(type='CosineAnnealingLR')]
pretrained = None
nested = dict(empty=None)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / 'configs' / 'sub').mkdir(parents=True)
    (tmp_path / 'configs' / 'sub' / 'food_lora.py').write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_found_by_path_and_by_bare_name(folder: Path) -> None:
    path = folder / 'configs' / 'sub' / 'food_lora.py'
    assert find_config(str(path)) == path
    assert find_config('food_lora').resolve() == path
    assert find_config('food_lora.py').resolve() == path
    assert Path('configs') in [p.relative_to(folder) for p in config_folders() if p.is_relative_to(folder)]


def test_unknown_name_suggests(folder: Path) -> None:
    with pytest.raises(ConfigError, match='did you mean food_lora'):
        find_config('food_lorra')


def test_options_reach_what_they_name(folder: Path) -> None:
    cfg = load_config(
        'food_lora',
        [
            'optim_wrapper.optimizer.lr=5e-5',
            'optim_wrapper.optimizer.betas=(0.9,0.95)',
            'param_scheduler.0.end=10',
            'pretrained=pretrained/InternVL2-2B',
            '+nested.empty.deep=true',
            '+new.key=[1,2]',
        ],
    )
    assert cfg.optim_wrapper.optimizer.lr == 5e-5
    assert cfg.optim_wrapper.optimizer.betas == (0.9, 0.95)
    assert cfg.param_scheduler[0].end == 10
    assert cfg.pretrained == 'pretrained/InternVL2-2B'
    assert cfg.nested.empty.deep is True
    assert cfg.new.key == [1, 2]


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        ('optim_wrapper.optimiser.lr=1', 'did you mean optim_wrapper.optimizer'),
        ('optim_wrapper.optimizer.learning_rate=1', "has no 'learning_rate'"),
        ('lr.x=1', 'has nothing inside'),
        ('lr.x=1', r'set it whole: lr=\.\.\.'),
        ('optim_wrapper.optimizer.type.type=SGD', 'set it whole: optim_wrapper.optimizer.type=SGD'),
        ('optim_wrapper.optimizer.type.r=4', r"set it whole: 'optim_wrapper\.optimizer\.type=dict\(type=\.\.\., r="),
        (r'pretrained="dict(type=\"full\",from_layer=9)"', r'--cfg-options pretrained: .* cannot be read'),
        ('pretrained=dict(type="lora", r=f(4))', "quote the whole option in the shell: 'pretrained=dict"),
        ('pretrained={"a":', 'cannot be read'),
        ('pretrained=[1,2', '--cfg-options pretrained: Imbalanced brackets'),
        ('param_scheduler.5.end=1', "has no '5'"),
        ('optim_wrapper', 'expected key=value'),
        ('=3', 'expected key=value'),
    ],
)
def test_options_that_would_do_nothing_are_errors(folder: Path, option: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config('food_lora', [option])


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        (
            "dict(type='lora', r=4, deep=dict(a=[1, (2, None)]))",
            {'type': 'lora', 'r': 4, 'deep': {'a': [1, (2, None)]}},
        ),
        ('{"type": "lora", "r": -4}', {'type': 'lora', 'r': -4}),
        ('{}', {}),
    ],
)
def test_a_dict_as_python_writes_it(folder: Path, text: str, value: dict) -> None:
    assert load_config('food_lora', [f'pretrained={text}']).pretrained == value


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        # Text is what was typed ...
        ('/data/my runs', '/data/my runs'),
        ('You are a helpful, honest assistant.', 'You are a helpful, honest assistant.'),
        ('1,2', '1,2'),
        ('word(a,b)', 'word(a,b)'),
        ("it's [a, b]", "it's [a, b]"),
        ('[INST] Be brief.', '[INST] Be brief.'),
        ('(Be brief, please.)', '(Be brief, please.)'),
        ('{question}', '{question}'),
        ('5 # five', '5 # five'),
        ('007', '007'),
        ('"Yes", she said', '"Yes", she said'),
        ('a=b', 'a=b'),
        ('你好， 世界', '你好， 世界'),
        ('', ''),
        # ... and a literal what Python reads.
        ('"1,2"', '1,2'),
        ("'[a, b]'", '[a, b]'),
        ('"None"', 'None'),
        ('1e-5', 1e-5),
        ('-3', -3),
        ('true', True),
        ('none', None),
        ('(1, 2)', (1, 2)),
        ('[1, "a b", None]', [1, 'a b', None]),
        ('[q_proj, v_proj]', ['q_proj', 'v_proj']),
        ("[it's,[b,2]]", ["it's", ['b', 2]]),
        ('[]', []),
        ('{"a": true, "b": null}', {'a': True, 'b': None}),
    ],
)
def test_text_stays_as_it_is_unless_it_is_a_literal(folder: Path, text: str, value: Any) -> None:
    read = load_config('food_lora', [f'pretrained={text}']).pretrained
    assert read == value
    assert isinstance(read, type(value))


def test_deep_brackets_are_an_error_of_ours() -> None:
    with pytest.raises(ConfigError, match=r'cannot be read|nested too deeply') as caught:
        parse_value('key', '[a,' * 3000 + ']' * 3000)
    assert len(str(caught.value)) < 1000


def test_no_item_of_a_tuple_is_set_in_silence(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"set it whole: 'optim_wrapper\.optimizer\.betas="):
        load_config('food_lora', ['optim_wrapper.optimizer.betas.1=0.95'])


def test_options_given_twice_both_count() -> None:
    parser = argparse.ArgumentParser()
    add_cfg_options(parser, '')
    assert parser.parse_args(['--cfg-options', 'a=1', 'b=2', '--cfg-options', 'c=3']).cfg_options == [
        'a=1',
        'b=2',
        'c=3',
    ]
    assert parser.parse_args([]).cfg_options == []


def test_all_wrong_options_at_once(folder: Path) -> None:
    cfg = load_config('food_lora')
    with pytest.raises(ConfigError, match='2 problems'):
        apply_options(cfg, ['a=1', 'lr=2', 'b=3'])


def test_a_config_that_is_no_python(folder: Path) -> None:
    (folder / 'bad.py').write_text('model = dict(')
    with pytest.raises(ConfigError, match=r'bad\.py: SyntaxError'):
        load_config('bad.py')


BASE = 'from mmengine.config import read_base\nwith read_base():\n    from .base import *\n'


@pytest.mark.parametrize(
    ('text', 'messages'),
    [
        ('import nosuchpackage\n', ["No module named 'nosuchpackage'", 'pip install', 'PYTHONPATH']),
        ('from nosuchpackage.models import Tower\nmodel = dict(vision=dict(type=Tower))', ["'nosuchpackage'"]),
        (BASE + 'from nosuchpackage import Tower\nmodel = dict(vision=dict(type=Tower))', ["'nosuchpackage'"]),
        (BASE + 'from mmft.models.vlm import VLMM\nmodel = dict(type=VLMM)', ['VLMM', 'fix the import']),
        (BASE + 'x = 1\ny = x / 0', ['bad.py:5: ZeroDivisionError']),
        (BASE.replace('.base', '._base_.models.tiny'), ['_base_/models/tiny.py', 'beside the config', 'mmft copy-cfg']),
        (BASE.replace('.base', 'nosuchpackage.configs.tiny'), ["No module named 'nosuchpackage'"]),
        (BASE.replace('.base', 'mmft.nosuch.tiny'), ['mmft/nosuch/tiny.py', 'mmft.nosuch.tiny']),
        ('import sys\nsys.exit()', ['SystemExit']),
        ('model = ' + '[' * 300, ['bad.py']),
    ],
)
def test_a_config_that_cannot_be_read_says_why(folder: Path, text: str, messages: list[str]) -> None:
    (folder / 'base.py').write_text('z = 1\n')
    (folder / 'bad.py').write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config('bad.py')
    assert 'bad.py' in str(caught.value)
    for message in messages:
        assert message in str(caught.value)


def test_an_absolute_base_is_found_without_a_warning(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = folder / 'own_package'
    (package / 'configs').mkdir(parents=True)
    (package / '__init__.py').touch()
    (package / 'configs' / 'base.py').write_text('z = 1\n')
    (folder / 'good.py').write_text(BASE.replace('.base', 'own_package.configs.base'))
    monkeypatch.syspath_prepend(folder)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert load_config('good.py').z == 1


def test_what_other_tools_call_a_setting_is_answered_with_its_place() -> None:
    cfg = load_config('llava15_7b_lora')
    with pytest.raises(ConfigError) as error:
        apply_options(cfg, ['lr=1e-5', 'batch_size=4', 'nosuch=1'])
    for place in ('optim_wrapper.optimizer.lr=', 'train_dataloader.batch_size=', '+nosuch=...'):
        assert place in str(error.value)
