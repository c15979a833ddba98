"""What the hooks say and refuse."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.logging.logger import MMFormatter
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mmft.engine.hooks import MovedPartsHook, progress
from mmft.engine.hooks.moved import LIMIT
from mmft.engine.log import without_colours
from mmft.errors import TrainingError
from mmft.evaluation.answers import question_of
from mmft.evaluation.metrics import normalize_answer
from mmft.structures import IGNORE_INDEX, Sample
from tests.engine.toy import ToyVLM, toy_runner


def log_of(work_dir: Path) -> str:
    (file,) = work_dir.glob('*/*.log')
    return file.read_text()


def test_a_run_shows_itself(tmp_path: Path) -> None:
    toy_runner(tmp_path, val=True, default_hooks={'answers': {'interval': 3}}).train()
    log = log_of(tmp_path)
    assert log.index('14 6 [3 ][1 ]') < log.index('iter 1/8'), 'the label mask comes before the first step'
    assert 'after 1 iteration: moved llm, projector; unchanged vision' in log
    for text in (
        'grad_norm',
        'lr/projector',
        'tokens/s',
        'peak',
        ' left',
        'validation after iter 8',
        'answers after iter 3',
    ):
        assert text in log
    (events,) = tmp_path.glob('*/vis_data')
    scalars = EventAccumulator(str(events)).Reload()
    names = set(scalars.Tags()['scalars'])
    assert names >= {
        'train/loss', 'lr/llm', 'lr/projector', 'train/grad_norm', 'train/tokens_per_second', 'train/peak_memory_mib',
        'val/loss', 'val/exact_match',
    }  # fmt: skip
    assert [event.step for event in scalars.Scalars('train/loss')] == list(range(1, 9))


def test_no_colours_reach_a_file(tmp_path: Path) -> None:
    """The trained text of the label mask stands in brackets there, in green on a terminal."""
    runner = toy_runner(tmp_path, val=True)
    runner.encoder.render_mask = lambda sample: '\x1b[90m14 6 \x1b[0m\x1b[32m3 1 \x1b[0m'
    shown: list[str] = []
    terminal = logging.StreamHandler(SimpleNamespace(write=shown.append, flush=lambda: None, isatty=lambda: True))
    terminal.setFormatter(MMFormatter(color=True))
    runner.logger.handlers.append(terminal)
    without_colours(runner.logger)
    runner.train()
    log = log_of(tmp_path)
    assert '\x1b' not in log
    assert '(in brackets):\n14 6 [3 ][1 ]' in log
    assert any('\x1b[32m3 1 ' in line for line in shown)
    runner.logger.warning('\x1b[31mred\x1b[0m')
    assert 'WARNING - red\n' in log_of(tmp_path)


def test_validation_shows_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, 'SECONDS_BETWEEN_LINES', 0)
    toy_runner(tmp_path / 'lines', val=True).train()
    assert re.search(r'validating: 1 of 3 batches, \d:\d\d:\d\d left', log_of(tmp_path / 'lines'))
    toy_runner(tmp_path / 'bar', val=True, default_hooks={'progress': {'bar': True}}).train()
    assert 'validating' not in log_of(tmp_path / 'bar')
    assert 'validation: ' in capsys.readouterr().err


def test_the_wait_for_data_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = toy_runner(tmp_path)
    clock = iter(range(10**6))
    monkeypatch.setattr('mmft.engine.loops.time.perf_counter', lambda: next(clock))
    seen: list[dict] = []
    runner.call_hook = lambda name, **given: seen.append(given.get('outputs'))
    group = next(runner.train_loop._groups())
    runner.train_loop.run_iter(group)
    outputs = seen[-1]
    assert outputs['data_time'] == 1
    assert outputs['tokens_per_second'] == outputs['tokens'] / 2


@pytest.mark.parametrize(('train', 'at'), [
    ({'max_epochs': 2}, [4, 8]),
    ({'max_iters': 9}, [4, 8, 9]),
    ({'max_iters': 3}, [3]),
    ({'max_iters': 5, 'val_interval': 2}, [2, 4, 5]),
])  # fmt: skip
def test_validation_is_due_once_an_epoch_and_at_the_end(tmp_path: Path, train: dict, at: list[int]) -> None:
    runner = toy_runner(tmp_path, val=True, train_cfg={'_delete_': True, **train})
    runner.train()
    assert [row['iter'] for row in runner.history] == at


def test_a_data_worker_that_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(self: object) -> None:
        raise RuntimeError('DataLoader worker (pid 123) is killed by signal: Killed. ')

    monkeypatch.setattr('mmengine.runner.Runner.train', killed)
    with pytest.raises(TrainingError, match=r'(?s)a process that loads data ended: .*Killed.*num_workers'):
        toy_runner(tmp_path).train()


def test_progress_bar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy_runner(tmp_path, default_hooks={'progress': {'bar': True}}).train()
    assert '8/8' in capsys.readouterr().err


def test_a_part_that_does_not_move_is_an_error(tmp_path: Path) -> None:
    runner = toy_runner(
        tmp_path,
        optim_wrapper={'optimizer': {'weight_decay': 0.0}, 'paramwise_cfg': {'parts': {'projector': {'lr': 1e-60}}}},
        default_hooks={'moved_parts': {'patience': 3}},
    )
    with pytest.raises(TrainingError, match='projector should train, but did not move in 3'):
        runner.train()


def test_a_part_that_never_sees_a_picture_is_not_watched_for_ever(tmp_path: Path) -> None:
    hook = MovedPartsHook(patience=3)
    model = ToyVLM()
    model.vision.requires_grad_(False)
    runner = SimpleNamespace(model=model, logger=mock.Mock())
    for number in range(3 * LIMIT + 5):
        hook.before_train_iter(runner, number)
        with torch.no_grad():
            model.llm['head'].weight.add_(1.0)
        hook.after_train_iter(runner, number, [{'pixel_values': None}], {'grad_norm': 1.0})
    assert not hook.before
    (warning,) = (call.args[0] for call in runner.logger.warning.call_args_list)
    assert 'projector' in warning
    assert f'in {3 * LIMIT} iterations; 0 of them had pictures' in warning


def test_a_frozen_part_that_moves_is_an_error(tmp_path: Path) -> None:
    class Meddler(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            runner.model.vision.weight.data.add_(1.0)

    runner = toy_runner(tmp_path)
    runner.register_hook(Meddler(), 'NORMAL')
    with pytest.raises(TrainingError, match=r'frozen parameters changed.*vision\.weight'):
        runner.train()


def test_hooks_are_merged_by_name(tmp_path: Path) -> None:
    runner = toy_runner(tmp_path, default_hooks={'answers': None, 'checkpoint': {'max_keep_ckpts': 7}})
    names = {type(hook).__name__: hook for hook in runner.hooks}
    assert 'SampleAnswersHook' not in names
    assert names['CheckpointHook'].max_keep_ckpts == 7


def test_question_of_takes_the_last_answer() -> None:
    ids = torch.arange(9)
    labels = torch.tensor([IGNORE_INDEX, IGNORE_INDEX, 2, 3, IGNORE_INDEX, IGNORE_INDEX, 6, 7, IGNORE_INDEX])
    prompt, answer = question_of(Sample(ids, labels))
    assert prompt.tolist() == [0, 1, 2, 3, 4, 5]
    assert answer.tolist() == [6, 7]


@pytest.mark.parametrize(('one', 'other'), [('Rice Rolls.', 'rice  rolls'), ('肠粉。', '肠粉'), ('ＡＢ', 'ab')])
def test_answers_are_compared_by_their_words(one: str, other: str) -> None:
    assert normalize_answer(one) == normalize_answer(other)


def test_validation_counts_tokens_and_right_answers(tmp_path: Path) -> None:
    runner = toy_runner(tmp_path, val=True)
    runner.train()
    model, sums = runner.model.eval(), [0.0, 0]
    for batch, _ in runner.val_loop.dataloader:
        logits = model(**model.data_preprocessor({k: v for k, v in batch.items() if k != 'meta'}), mode='tensor')
        targets = batch['labels'][:, 1:]
        sums[0] += float(
            torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten(), reduction='sum')
        )
        sums[1] += int((targets != IGNORE_INDEX).sum())
    assert runner.history[-1]['loss'] == pytest.approx(sums[0] / sums[1], rel=1e-5)
    assert len(runner.val_loop.answers) == 6


@pytest.mark.parametrize('most', [1, 64])
def test_references_that_no_answer_can_reach_are_counted(tmp_path: Path, most: int) -> None:
    runner = toy_runner(tmp_path, val=True, val_cfg={'max_new_tokens': most})
    runner.train()
    logs = ''.join(path.read_text() for path in tmp_path.rglob('*.log'))
    longer = sum(not answer.fits for answer in runner.val_loop.answers)
    assert (longer > 0) is (most == 1)
    assert (f'max_new_tokens=1 is less than {longer} of 6 references' in logs) is (most == 1)


def test_out_of_memory_says_at_what_and_what_to_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError('CUDA out of memory')

    gib = 2**30
    monkeypatch.setattr(torch.cuda, 'mem_get_info', lambda: (2 * gib, 80 * gib))
    monkeypatch.setattr(torch.cuda, 'memory_reserved', lambda: 20 * gib)
    runner = toy_runner(tmp_path, val=True)
    monkeypatch.setattr(runner.train_loop, 'train_step', fail)
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, 'is_available', lambda: True)
        with pytest.raises(TrainingError, match=r'in iteration 1.*samples(?s:.)*holds 20.0, others 58.0') as caught:
            runner.train_loop.run_iter(next(runner.train_loop._groups()))
    assert 'train_dataloader.batch_size' in str(caught.value)
    assert "'qlora'" in str(caught.value)
    monkeypatch.setattr(runner.val_loop, 'run', fail)
    runner.train_loop.iter = 8
    with pytest.raises(TrainingError, match=r'in the validation after iteration 8(?s:.)*val_dataloader.batch_size'):
        runner.train_loop._validate_if_due(epoch_ends=True)
