"""The strategy of a config, and that it is asked: no other file of the engine tests for one by name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import mmft
from mmft.engine.strategies import DDPStrategy, DeepSpeedStrategy, Sharding, SingleStrategy, strategy_of
from mmft.registry import STRATEGIES
from tests.engine.toy import toy_config

ENGINE = Path(mmft.__file__).parent / 'engine'


@pytest.mark.parametrize(
    ('changes', 'kind', 'launcher', 'sharding'),
    [
        ({}, SingleStrategy, 'none', Sharding(gpus=4)),
        ({'launcher': 'slurm'}, DDPStrategy, 'slurm', Sharding(gpus=4)),
        ({'deepspeed': 'zero3'}, DeepSpeedStrategy, 'pytorch', Sharding(stage=3, gpus=4)),
        ({'deepspeed': 'zero2_offload', 'launcher': 'slurm'}, DeepSpeedStrategy, 'slurm', Sharding(2, 4, offload=True)),
    ],
)
def test_the_strategy_of_a_config(tmp_path: Path, changes: dict, kind: type, launcher: str, sharding: Sharding) -> None:
    strategy = strategy_of(toy_config(tmp_path, **changes))
    assert type(strategy) is kind
    assert strategy.launcher == launcher
    assert strategy.sharding(4) == sharding
    assert [*strategy.problems()] == []
    assert [module for _, module, _ in strategy.packages()] == (['deepspeed'] if 'deepspeed' in changes else [])


def test_strategies_are_registered_by_the_name_of_their_file() -> None:
    assert {name: STRATEGIES.get(name) for name in ('single', 'ddp', 'deepspeed')} == {
        'single': SingleStrategy, 'ddp': DDPStrategy, 'deepspeed': DeepSpeedStrategy,
    }  # fmt: skip
    for name in ('single', 'ddp', 'deepspeed'):
        assert STRATEGIES.get(name).__module__ == f'mmft.engine.strategies.{name}'


def test_no_other_file_of_the_engine_asks_for_deepspeed() -> None:
    asking = re.compile(r"cfg\.(get\(['\"])?deepspeed|cfg\[['\"]deepspeed")
    found = {path.relative_to(ENGINE) for path in ENGINE.rglob('*.py') if asking.search(path.read_text())}
    assert {str(path.parent) for path in found} == {'strategies'}
