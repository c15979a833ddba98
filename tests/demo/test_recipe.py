"""The whole demo in miniature, by the same commands; it learns nothing in four steps, but every part has its turn."""

from __future__ import annotations

import json

import pytest

from mmft.demo.food import Plan
from mmft.demo.recipe import Demo
from mmft.errors import TrainingError

PLAN = Plan(words=4, stills=12, known=1, train=1, val=1, heldout=1)


def demo(tmp_path, **options) -> Demo:
    small = ('train_cfg.max_epochs=1',)
    return Demo(
        tmp_path / 'data',
        tmp_path / 'work',
        PLAN,
        base_options=(*small, 'train_dataloader.batch_size=11'),
        food_options=(*small, 'train_dataloader.batch_size=5', 'val_dataloader=None'),
        **options,
    )


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
    assert 'all 10 held-out questions' in capfd.readouterr().out


def test_a_failing_step_stops_the_demo(tmp_path):
    run = demo(tmp_path)
    with pytest.raises(TrainingError, match='ended with status'):
        run.train('configs/internvl2_tiny_base.py', tmp_path / 'run', tmp_path / 'missing.jsonl', None, ())


def test_only_what_the_demo_wrote_is_cleared(tmp_path):
    run = demo(tmp_path)
    (tmp_path / 'work/base').mkdir(parents=True)
    (tmp_path / 'work/report.json').write_text('{}')
    (tmp_path / 'work/mine.txt').write_text('keep')
    run.clear()
    assert [path.name for path in (tmp_path / 'work').iterdir()] == ['mine.txt']
