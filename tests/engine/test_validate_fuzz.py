"""Junk in the place of any value of a config ends in a report or an error of ours, never in a foreign traceback."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from mmft.cli.configs import load_config
from mmft.engine.judging.config import find_problems
from mmft.engine.planning.dry_run import plan
from mmft.errors import MMFTError
from tests.engine.tiny import TOKENIZER, write_tiny

SEEDS = 25  # of each kind of config; thousands were tried when this was written
SIZES = dict(hidden_size=16, num_attention_heads=2, intermediate_size=32)
JUNK = (
    None, -1, 0, 1, 2.5, float('nan'), float('inf'), True, False, '', 'x', 'auto', '0', [], {}, (), [None], {'a': 1},
    {'type': None}, {'type': 3}, {'type': 'x'}, {'type': []}, [[]], [{}], ['x', 1], 10**30, -(10**30), 'é\ud800',
    'a\0c', b'x', {1: 2}, {None: None}, print, Path('x'), {'type': 'AdamW'}, [1, 2], 'subprocess.Popen', 'x' * 5000,
)  # fmt: skip


@pytest.fixture(scope='module')
def configs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Good configs that use as many settings as they can."""
    folder = tmp_path_factory.mktemp('fuzz')
    internvl = load_config(str(write_tiny(folder / 'run')), [f'work_dir={folder / "w"}']).to_dict()
    internvl.pop('read_base', None)
    internvl |= dict(
        env_cfg=dict(cudnn_benchmark=False, mp_cfg=dict(mp_start_method='fork'), dist_cfg=dict(timeout=60)),
        custom_hooks=[dict(type='SampleAnswersHook', interval=5)],
        model_wrapper_cfg=dict(find_unused_parameters=True),
    )
    encoder = dict(
        type='ChatEncoder', template='vicuna_v1', tokenizer=str(TOKENIZER), image_start='', image_end='',
        image_token='<image>', add_tokens=True, images_first=True, max_length=99, too_long='truncate',
    )  # fmt: skip
    llava = copy.deepcopy(internvl) | dict(
        model=dict(
            type='VLM',
            vision=dict(type='CLIP', num_hidden_layers=3, image_size=28, patch_size=7, select_layer=-2, **SIZES),
            projector=dict(type='QFormer', num_queries=5, num_hidden_layers=1, **SIZES),
            llm=dict(type='Qwen2', vocab_size=1024, num_hidden_layers=2, num_key_value_heads=1, **SIZES),
        ),
        encoder=dict(encoder, image_processor=dict(type='PadSquare', tile_size=28)),
        param_scheduler=[dict(type='LinearLR', start_factor=1e-3, begin=0, end=1, convert_to_iter_based=True)],
        deepspeed=dict(zero_optimization=dict(stage=2)),
        tune=dict(vision=dict(type='full', from_layer=1), llm=dict(type='lora', r=4, targets=['q_proj'])),
        resize_embeddings=True,
    )
    llava['train_dataloader'].update(
        sampler=dict(type='EpochBatchSampler', group_by_length=True), collate=dict(type='PackCollator')
    )
    llava_next = copy.deepcopy(internvl) | dict(
        model=dict(
            type='VLM',
            vision=dict(type='SigLIP', num_hidden_layers=3, image_size=28, patch_size=7, **SIZES),
            projector=dict(type='MLP', depth=2),
            merge=dict(type='AnyResMerge', unpad=True),
            llm=dict(type='Phi', vocab_size=1200, num_hidden_layers=1, num_key_value_heads=2, **SIZES),
        ),
        encoder=dict(
            encoder, image_processor=dict(type='AnyResTiler', tile_size=28, grid_pinpoints=[[28, 56], [56, 28]])
        ),
    )
    return {'internvl': internvl, 'llava': llava, 'llava_next': llava_next}


def places(node: Any, above: tuple = ()) -> Iterator[tuple]:
    """The path of every value that can be replaced."""
    if isinstance(node, (dict, list)):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield (*above, key)
            yield from places(value, (*above, key))


def spoilt(config: dict[str, Any], seed: int) -> tuple[dict[str, Any], tuple, Any]:
    """A copy with junk for one value, an unknown key, or a key less; the place, and what stands there."""
    draw, config = random.Random(seed), copy.deepcopy(config)
    path, value = draw.choice([*places(config)]), copy.deepcopy(draw.choice(JUNK))
    *above, last = path
    node = config
    for key in above:
        node = node[key]
    how = draw.random()
    if how < 0.1:
        del node[last]
    else:
        node['junk' if how < 0.2 and isinstance(node, dict) else last] = value
    return config, path, value


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name', ['internvl', 'llava', 'llava_next'])
def test_junk_is_reported(configs: dict[str, dict[str, Any]], name: str) -> None:
    good = Config(copy.deepcopy(configs[name]))
    problems = find_problems(good)
    assert problems.wrong == []
    assert 'memory of one GPU' in plan(good, problems=problems)
    for seed in range(SEEDS):
        config, path, value = spoilt(configs[name], seed)
        try:
            cfg = Config(config)
            text = plan(cfg, problems=find_problems(cfg))
        except MMFTError as error:
            text = str(error)
        except Exception as error:
            pytest.fail(f'seed {seed}, {path} = {value!r}: {type(error).__name__}: {error}')
        text.encode('utf-8', errors='strict' if '\ud800' not in str(value) else 'replace')


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize(
    ('place', 'value', 'message'),
    [
        ('train_dataloader.dataset.ann_file', 2.5, 'train_dataloader.dataset.ann_file = 2.5; expected a path'),
        ('train_dataloader.dataset.ann_file', 'x' * 5000, 'does not exist'),
        ('val_dataloader.dataset.image_root', [[]], 'val_dataloader.dataset.image_root = [[]]; expected a path'),
        ('train_dataloader', '', "train_dataloader = ''; expected a dict"),
        ('encoder.tokenizer', {'a': 1}, 'encoder.tokenizer = '),
        ('model', [[]], 'model = [[]]; expected a dict'),
        ('optim_wrapper.optimizer.type', [{}], 'optim_wrapper.optimizer.type'),
        ('optim_wrapper.paramwise_cfg.parts', {1: 2}, 'parts.1: no such part'),
        ('param_scheduler.type', {'a': 1}, 'param_scheduler.type'),
        ('pretrained', {1: 2}, 'pretrained names the part 1'),
        ('init_from', -1, 'init_from = -1'),
        ('deepspeed', {'zero_optimization': [1, 2]}, 'deepspeed.zero_optimization = [1, 2]'),
    ],
)
def test_what_was_found(configs: dict[str, dict[str, Any]], place: str, value: Any, message: str) -> None:
    config = copy.deepcopy(configs['internvl'])
    *above, last = place.split('.')
    node = config
    for key in above:
        node = node[key]
    node[last] = value
    assert message in str(find_problems(Config(config)).error)
