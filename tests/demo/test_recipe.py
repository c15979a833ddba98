"""The demos in miniature, by the same commands; they learn nothing in four steps, but every part has its turn."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from demo_food.food import Plan
from demo_food.recipe import ROOT, Demo
from demo_food.stages import FAMILIES, INTERNVL2, LLAVA, Family
from safetensors.torch import load_file

from mmft.cli.main import main
from mmft.errors import TrainingError

PLAN = Plan(words=4, stills=12, known=1, train=1, val=1, heldout=1)


def demo(tmp_path, family: Family = INTERNVL2, kind: type[Demo] = Demo) -> Demo:
    small = ('train_cfg.max_epochs=1', 'train_dataloader.batch_size=5')
    return kind(
        family,
        tmp_path / 'data',
        tmp_path / 'work',
        PLAN,
        options={
            'base': ('train_cfg.max_epochs=1', 'train_dataloader.batch_size=11'),
            'align': small,
            'fine-tune': (*small, 'val_dataloader=None'),
        },
    )


class HereDemo(Demo):
    """Runs its commands in this process, which has its libraries loaded."""

    def command(self, script: str, *args: str) -> None:
        assert (ROOT / script).is_file()
        assert main([Path(script).stem, *args]) == 0


def test_all_steps(tmp_path, capfd):
    run = demo(tmp_path)
    results = run.run()
    written = json.loads((tmp_path / 'work/report.json').read_text(encoding='utf-8'))
    assert written == results
    assert written['n'] == 10
    assert 0 <= written['before'] <= 1
    assert 0 <= written['after'] <= 1
    assert list(written['seconds']) == ['draw', 'base', 'ask before', 'fine-tune', 'convert', 'ask after', 'total']
    assert (tmp_path / 'work/report.html').read_text(encoding='utf-8').count('data:image/jpeg') == 10
    assert (tmp_path / 'work/food/model.safetensors').is_file()
    told = capfd.readouterr().out
    assert 'all 10 held-out questions' in told
    assert re.findall(r'^\[(\d)/6\]', told, flags=re.M) == list('123456')


@pytest.fixture(scope='module')
def llava(tmp_path_factory):
    """The folder in which the LLaVA demo ran, and what it gave."""
    folder = tmp_path_factory.mktemp('llava')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return folder / 'work', demo(folder, LLAVA, HereDemo).run()


def test_llava_has_a_stage_more_and_the_same_report(llava):
    work, results = llava
    phases = ['draw', 'base', 'ask before', 'align', 'fine-tune', 'convert', 'ask after', 'total']
    assert list(results['seconds']) == phases
    assert json.loads((work / 'report.json').read_text(encoding='utf-8')) == results
    assert 'A small LLaVA was asked 10 questions' in (work / 'report.html').read_text(encoding='utf-8')
    for directory in ('base', 'food'):
        config = json.loads((work / directory / 'config.json').read_text(encoding='utf-8'))
        assert config['architectures'] == ['LlavaForConditionalGeneration']


def test_the_exported_llava_has_what_both_stages_learnt_and_the_rest_of_its_base(llava):
    work, _ = llava
    base, food = (load_file(work / name / 'model.safetensors') for name in ('base', 'food'))
    assert base.keys() == food.keys()
    changed = {name for name in base if not torch.equal(base[name], food[name])}
    tower = {name for name in changed if 'vision_tower' in name}
    # LoRA merges into the matrices of every layer; the first stage opened the whole tower from layer 2 on.
    whole = {name for name in tower if not re.search(r'(proj|fc\d)\.weight$', name)}
    assert {re.search(r'layers\.(\d)', name)[1] for name in tower} == {'0', '1', '2', '3'}
    assert {re.search(r'layers\.(\d)', name)[1] for name in whole} == {'2', '3'}
    assert {'multi_modal_projector.linear_1.weight'} < {name for name in changed if 'projector' in name}
    # The head trains in the first stage only, the layers' matrices once more, by LoRA.
    assert {name for name in base if 'lm_head' in name or ('q_proj' in name and 'language' in name)} <= changed


@pytest.mark.parametrize('family', FAMILIES.values(), ids=FAMILIES)
def test_a_stage_starts_from_what_is_made_before_it(family):
    made = {'base'}
    for stage in family.stages:
        assert (ROOT / 'configs' / stage.config).is_file()
        assert set(stage.starts.values()) <= made
        made.add(stage.run)
    assert len(made) == len(family.stages) + 1


def test_a_failing_step_stops_the_demo(tmp_path):
    run = demo(tmp_path)
    with pytest.raises(TrainingError, match='ended with status'):
        run.train(INTERNVL2.base)


def test_only_what_the_demo_wrote_is_cleared(tmp_path):
    run = demo(tmp_path, LLAVA)
    (tmp_path / 'work/base').mkdir(parents=True)
    (tmp_path / 'work/align_run').mkdir()
    (tmp_path / 'work/report.json').write_text('{}')
    (tmp_path / 'work/mine.txt').write_text('keep')
    run.clear()
    assert [path.name for path in (tmp_path / 'work').iterdir()] == ['mine.txt']
