"""A config as checkpoints hold it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmft.checkpoint.silent_settings import same_value
from mmft.cli.configs import list_configs, load_config
from mmft.errors import ConfigError
from mmft.plain_json import config_json, is_json

CONFIGS = [name for number, name in enumerate(sorted(list_configs())) if number % 6 == 0]


@pytest.mark.parametrize('name', CONFIGS)
def test_a_config_stays_what_it_is(name):
    cfg = load_config(name).to_dict()
    found = config_json(cfg)
    assert is_json(found)
    assert found.keys() == cfg.keys()
    assert same_value(found['model'], cfg['model'])
    assert same_value(found['encoder'], cfg['encoder'])
    assert same_value(found['optim_wrapper'], cfg['optim_wrapper'])


def test_tuples_are_lists_and_compare_equal():
    model = {'type': 'VLM', 'sizes': ((1, 2), [3.5]), 'on': True, 'none': None}
    found = config_json({'model': model})
    assert found == {'model': {'type': 'VLM', 'sizes': [[1, 2], [3.5]], 'on': True, 'none': None}}
    assert same_value(found['model'], model)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


@pytest.mark.parametrize('name', ['model', 'encoder', 'pretrained', 'dtype', 'tune', 'init_from'])
def test_what_a_model_is_rebuilt_from_must_be_json(name):
    values = {'inf': float('inf'), 'nan': float('nan'), 'path': Path('x'), 'set': {1}, 'class': dict, 'bytes': b'x'}
    with pytest.raises(ConfigError) as caught:
        config_json({name: {'a': [1, values], 3: 4, 'fine': 5}})
    problems = caught.value.problems
    assert len(problems) == len(values) + 1
    for key in values:
        assert any(f'{name}.a[1].{key} = ' in problem for problem in problems)
    assert any(f'{name}: the key 3' in problem for problem in problems)


def test_what_is_only_shown_is_kept_as_text():
    cfg = {'model': {}, 'optim_wrapper': {'clip_grad': {'max_norm': float('inf')}, 'betas': (0.9, 0.99), 5: {'a'}}}
    found = config_json(cfg)
    assert is_json(found)
    assert found['optim_wrapper'] == {'clip_grad': {'max_norm': 'inf'}, 'betas': [0.9, 0.99], '5': "{'a'}"}


def test_before_a_run_every_such_value_is_reported(tmp_path):
    from tests.engine.tiny import write_tiny

    path = write_tiny(tmp_path)
    path.write_text(path.read_text() + "model['vision']['x'] = float('inf')\nencoder.update({1: 2})\n")
    from mmft.engine.judging.config import find_problems

    wrong = '\n'.join(find_problems(load_config(str(path))).wrong)
    assert 'model.vision.x = inf cannot be written as JSON' in wrong
    assert 'encoder: the key 1 cannot be written as JSON' in wrong
