"""Configs are found by name and changed only where they can be."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmft.cli.configs import apply_options, config_folders, find_config, load_config
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
        ('pretrained=word(a,b)', 'cannot be read'),
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


def test_all_wrong_options_at_once(folder: Path) -> None:
    cfg = load_config('food_lora')
    with pytest.raises(ConfigError, match='2 problems'):
        apply_options(cfg, ['a=1', 'lr=2', 'b=3'])


def test_a_config_that_is_no_python(folder: Path) -> None:
    (folder / 'bad.py').write_text('model = dict(')
    with pytest.raises(ConfigError, match=r'bad\.py: SyntaxError'):
        load_config('bad.py')
