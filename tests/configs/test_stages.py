"""Stages that start from each other: experiments 4, 6 and 8, small, one after the other as their configs chain them.

Tower and language model come from directories of their own, as `pretrained` of these configs names them.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmft.engine import Runner
from mmft.registry import MODELS

from .shrink import shrink

ROOT = Path(__file__).parents[2] / 'configs' / 'tinyllava'

State = dict[str, torch.Tensor]


def small(name: str, folder: Path) -> Config:
    (folder / name).mkdir(parents=True, exist_ok=True)
    return shrink(Config.fromfile(ROOT / f'{name}.py'), folder / name)


def make_base(folder: Path) -> dict[str, str]:
    """Directories of a CLIP and a Llama with its tokenizer, as their publishers lay them out."""
    cfg = small('exp04_tune', folder)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model.to_dict())
    places = {'vision': folder / 'clip', 'llm': folder / 'tinyllama'}
    model.vision.tower.save_pretrained(places['vision'])
    model.llm.lm.save_pretrained(places['llm'])
    shutil.copytree(cfg.encoder.tokenizer, places['llm'], dirs_exist_ok=True)
    return {part: str(place) for part, place in places.items()}


def run(name: str, folder: Path, base: dict[str, str]) -> tuple[State, State]:
    """A stage, its ``init_from`` looked up in ``folder``: the weights it starts from, and its last checkpoint."""
    cfg = small(name, folder)
    init_from = Config.fromfile(ROOT / f'{name}.py').init_from
    cfg.update(work_dir=str(folder / 'work_dirs' / name), init_from=init_from and str(folder / init_from))
    cfg.pretrained = base
    cfg.encoder.pop('tokenizer')
    runner = Runner.from_cfg(cfg)
    start = {key: value.detach().clone() for key, value in runner.model.named_parameters()}
    runner.train()
    (checkpoint,) = Path(cfg.work_dir).glob('iter_*.pth')
    return start, torch.load(checkpoint, weights_only=True)['state_dict']


@pytest.fixture(scope='module')
def stages(tmp_path_factory):
    folder = tmp_path_factory.mktemp('stages')
    base = make_base(folder)
    return {name: run(name, folder, base) for name in ('exp04_align', 'exp06_align', 'exp06_tune', 'exp08_tune')}


def equal(a: torch.Tensor, b: torch.Tensor, name: str) -> None:
    torch.testing.assert_close(a.float(), b.float(), rtol=0, atol=0, msg=name)


def test_alignment_keeps_the_projector_and_nothing_else(stages):
    _, saved = stages['exp04_align']
    assert {name.split('.')[0] for name in saved} == {'projector'}


def test_number_6_starts_from_the_projector_of_number_4(stages):
    start, _ = stages['exp06_align']
    for name, value in stages['exp04_align'][1].items():
        equal(start[name], value, name)


def test_opened_layers_go_along_into_the_next_stage_and_its_checkpoints(stages):
    _, aligned = stages['exp06_align']
    opened = {name for name in aligned if name.startswith('vision.')}
    assert {name.split('.layers.')[1].split('.')[0] for name in opened} == {'1', '2'}
    start, tuned = stages['exp06_tune']
    for name in opened:
        equal(start[name], aligned[name].half(), name)  # frozen now, in the type of frozen weights
        equal(tuned[name], start[name], name)


def test_every_expert_of_number_8_starts_as_number_6s_projector(stages):
    start, tuned = stages['exp08_tune']
    dense = {name: value for name, value in stages['exp06_align'][1].items() if name.startswith('projector.mlp.')}
    assert len(dense) == 4
    for name, value in dense.items():
        for expert in range(4):
            own = name.replace('projector.mlp.', f'projector.experts.{expert}.')
            equal(start[own], value, own)
    assert any(not torch.equal(start[name], tuned[name]) for name in tuned if name.startswith('projector.experts.'))
