"""Metrics of the answers while training: any registered one, several references, and the best checkpoint by it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mmft.cli.main import main
from mmft.engine.hooks import CheckpointHook
from mmft.engine.judging.config import find_problems
from mmft.engine.run_folder import read_checkpoint
from mmft.errors import ConfigError
from mmft.evaluation.answers import Answer
from mmft.registry import METRICS
from mmft.structures import Sample
from tests.engine.test_hooks import log_of
from tests.engine.test_validate import config
from tests.engine.tiny import write_tiny
from tests.engine.toy import ToyData, toy_runner

BOTH = {'metrics': ['exact_match', 'vqa_accuracy']}


class Answered(ToyData):
    """The toy's data with references of ten people, of whom i + 1 say what the model does about sample i."""

    def __init__(self, said: list[str]) -> None:
        super().__init__(len(said))
        self.said = said

    def __getitem__(self, i: int) -> Sample:
        sample = super().__getitem__(i)
        sample.meta['references'] = [self.said[i]] * (i + 1) + ['something else'] * (9 - i)
        return sample


def test_several_references_count(tmp_path: Path) -> None:
    runner = toy_runner(tmp_path, val=True, val_cfg=BOTH)
    loop = runner.val_loop
    before = loop.run()
    assert list(before) == ['loss', 'exact_match', 'vqa_accuracy', 'nats_per_answer', 'loss_own', 'loss_exchanged']
    assert [answer.references for answer in loop.answers] == [[answer.reference] for answer in loop.answers]
    said = [answer.answer for answer in loop.answers]
    assert len(said) == 6
    vars(loop.dataloader)['dataset'] = Answered(said)
    after = loop.run()
    assert after['exact_match'] == 1
    assert after['vqa_accuracy'] == pytest.approx((0.3 + 0.6 + 0.9 + 1 + 1 + 1) / 6)
    assert after['loss'] == before['loss']


def test_metrics_are_exact_match_unless_said(tmp_path: Path) -> None:
    assert list(toy_runner(tmp_path, val=True).val_loop.metrics) == ['exact_match']
    METRICS.register_module(name='loss', module=lambda answer, references: 1.0)
    try:
        with pytest.raises(ConfigError, match="'loss', whose name means something else"):
            toy_runner(tmp_path, val=True, val_cfg={'metrics': ['loss']})
    finally:
        METRICS.module_dict.pop('loss')


@pytest.mark.parametrize(('save_best', 'name'), [('vqa_accuracy', 'vqa_accuracy'), ('auto', 'exact_match')])
def test_the_best_by_any_metric_and_ties_go_to_the_lower_loss(tmp_path: Path, save_best: str, name: str) -> None:
    runner = toy_runner(tmp_path, val=True, val_cfg=BOTH, default_hooks={'checkpoint': {'save_best': save_best}})
    hook = next(hook for hook in runner.hooks if isinstance(hook, CheckpointHook))
    other, kept = {'vqa_accuracy': 'exact_match', 'exact_match': 'vqa_accuracy'}[name], []
    for iteration, (value, loss) in enumerate([(0.5, 2.0), (0.5, 1.0), (0.25, 0.1), (0.75, 9.0)], 1):
        runner.train_loop.iter = iteration
        hook.after_val_epoch(runner, {'loss': loss, name: value, other: 1 - value})
        kept.append(runner.best['iter'])
    assert kept == [1, 2, 2, 4]
    assert read_checkpoint(tmp_path / 'best.pth')['meta']['best']['metric'] == name


def test_a_metric_that_the_validation_does_not_give(tmp_path: Path) -> None:
    best = {'checkpoint': {'save_best': 'anls'}}
    with pytest.raises(ConfigError, match=r"save_best='anls'\), but val_cfg.metrics=\['exact_match', 'vqa_accuracy'\]"):
        toy_runner(tmp_path, val=True, val_cfg=BOTH, default_hooks=best).train()
    with pytest.raises(ConfigError, match=r'(?s)no metric is named .exact-match.*did you mean .exact_match'):
        CheckpointHook(save_best='exact-match')


def judged(tmp_path: Path, best: str = 'auto', records: list[dict] | None = None, **val_cfg: Any) -> list[str]:
    file = tmp_path / 'val.jsonl'
    talk = {'conversations': [{'from': 'human', 'value': 'Hi'}, {'from': 'gpt', 'value': 'Hello'}]}
    file.write_text('\n'.join(json.dumps({**talk, **more}) for more in records or [{}]) + '\n')
    cfg = config(tmp_path, val_dataloader=dict(dataset=dict(ann_file=str(file))), val_cfg=val_cfg)
    cfg.default_hooks = dict(checkpoint=dict(save_best=best))
    return find_problems(cfg).wrong


def test_bad_metrics_are_reported_with_everything_else(tmp_path: Path) -> None:
    found = '\n'.join(judged(tmp_path, best='anls', metrics=['exact_mtach', 'vqa_acuracy'], max_samples=-1))
    for text in ('val_cfg.max_samples = -1', "did you mean 'exact_match'", "did you mean 'vqa_accuracy'"):
        assert text in found
    (problem,) = judged(tmp_path, metrics='exact_match')
    assert "val_cfg.metrics: metrics = 'exact_match'" in problem
    (problem,) = judged(tmp_path, best='anls', metrics=['exact_match'])
    assert "save_best = 'anls', but val_cfg.metrics = ['exact_match']" in problem
    assert judged(tmp_path, best='anls', metrics=['exact_match', 'anls']) == []


@pytest.mark.parametrize('as_meta', [False, True])
def test_a_record_without_the_answers_that_a_metric_needs_is_named(tmp_path: Path, as_meta: bool) -> None:
    records = [{'answers': ['a', 'b']}, {'answers': [{'answer': 'a'}]}, {'answers': []}, {}]
    (problem,) = judged(tmp_path, records=records, **BOTH)
    assert f'vqa_accuracy, but the record at {tmp_path / "val.jsonl"}:3 has no `answers`' in problem
    assert judged(tmp_path, records=records[:2], **BOTH) == []
    assert judged(tmp_path, records=records, metrics=['exact_match', 'anls']) == []
    assert judged(tmp_path, records=records, **BOTH, max_samples=0) == []
    (tmp_path / 'val.jsonl').write_text('{"answers": ["a"]}\nnot JSON\n{"conversations": []}\n')
    dataset = dict(ann_file=str(tmp_path / 'val.jsonl'))
    if as_meta:
        dataset = dict(meta_file={'one': {'root': '', 'annotation': dataset['ann_file'], 'repeat_time': 1}})
    wrong = find_problems(config(tmp_path, val_dataloader=dict(dataset=dataset), val_cfg=BOTH)).wrong
    assert 'val.jsonl:3 has no `answers`' in '\n'.join(wrong), 'a bad line before it is reported elsewhere'


METRIC = '''
from mmft.registry import METRICS

@METRICS.register_module()
def as_long(answer, references):
    """1 for an answer as long as the longest reference."""
    return min(1, len(answer) / max(map(len, references)))
'''


def test_a_metric_of_ones_own_in_a_whole_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package = tmp_path / 'code' / 'scorers_of_a_user'
    package.mkdir(parents=True)
    (package / '__init__.py').write_text(METRIC)
    monkeypatch.syspath_prepend(str(package.parent))
    file = write_tiny(tmp_path)
    val = tmp_path / 'data' / 'val.jsonl'
    rows = [json.loads(line) for line in val.read_text().splitlines()]
    val.write_text('\n'.join(json.dumps({**row, 'answers': ['dish 1', 'a dish', 'food']}) for row in rows) + '\n')
    with file.open('a') as text:
        text.write("val_cfg.update(metrics=['exact_match', 'vqa_accuracy', 'as_long'])\n")
        text.write("default_hooks.update(checkpoint=dict(save_best='as_long'))\n")
    run = ['train', str(file), '--work-dir', str(tmp_path / 'run')]
    try:
        assert main(run) == 1
        assert "no metric is named 'as_long'" in capsys.readouterr().err
        file.write_text(file.read_text() + "custom_imports = dict(imports=['scorers_of_a_user'])\n")
        assert main(run) == 0
    finally:
        METRICS.module_dict.pop('as_long', None)
        sys.modules.pop('scorers_of_a_user', None)
    meta = torch.load(tmp_path / 'run' / 'best.pth', weights_only=True)['meta']
    assert [list(line)[2:6] for line in meta['history']] == [['loss', 'exact_match', 'vqa_accuracy', 'as_long']] * len(
        meta['history']
    )
    assert meta['best']['metric'] == 'as_long'
    assert meta['best']['value'] == max(line['as_long'] for line in meta['history'])
    assert "expected one of ['dish 1', 'a dish', 'food']" in log_of(tmp_path / 'run')


def test_an_answer_is_right_by_any_reference() -> None:
    answer = Answer('', 'A dish.', 'dish 1', ['dish 1', 'a dish'])
    assert answer.right
    assert not Answer('', 'food', 'dish 1', ['dish 1']).right
