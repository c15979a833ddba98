"""Killed at any moment and resumed, a run ends with the very weights of one that was never interrupted."""

from __future__ import annotations

import multiprocessing
import signal
from pathlib import Path

import pytest
import torch

from mmft.engine.resume import _compare_backgrounds
from mmft.engine.run_folder import find_last
from mmft.errors import CheckpointError
from tests.engine.toy import toy_runner, train

SPAWN = multiprocessing.get_context('forkserver')
SPAWN.set_forkserver_preload(['tests.engine.toy', 'mmft.engine', 'cv2', 'matplotlib.pyplot', 'torch.utils.tensorboard'])


def in_process(work_dir: Path, loader: dict | None = None, **options) -> int:
    """Train in a process of its own; its exit code (-9: killed)."""
    process = SPAWN.Process(target=train, args=(str(work_dir), loader or {}), kwargs=options)
    process.start()
    process.join(60)
    return process.exitcode


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)['state_dict']


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def test_resuming_a_run_of_0_1_says_that_transparent_pictures_change():
    warnings = []
    now = {'background': [255, 255, 255]}
    _compare_backgrounds({'background': [255, 255, 255]}, now, warnings.append)
    assert not warnings
    _compare_backgrounds({'format': 1}, now, warnings.append)
    assert 'encoder.background=None goes on as before' in warnings[0]


CASES = {
    # name: (loader, options, iteration to be killed in, last iteration)
    'epochs, mid-epoch, 0 workers': (
        {},
        {'train_cfg': {'max_epochs': 2}, 'default_hooks': {'checkpoint': {'interval': 2, 'by_epoch': False}}},
        (4, 7),
        8,
    ),
    'iterations, 2 workers, validation': (
        {'workers': 2},
        {
            'train_cfg': {'_delete_': True, 'max_iters': 6, 'val_interval': 2},
            'default_hooks': {'checkpoint': {'interval': 1, 'by_epoch': False}},
            'val': True,
        },
        (3, 6),
        6,
    ),
    'epochs, at their ends, 2 workers': (
        {'workers': 2},
        {'train_cfg': {'max_epochs': 3}, 'default_hooks': {'checkpoint': {'interval': 1}}, 'val': True},
        (6, 10),
        12,
    ),
    'one sample a step': (
        {'batch_size': 1, 'size': 7},
        {
            'train_cfg': {'max_epochs': 1},
            'optim_wrapper': {'accumulative_counts': 1, 'dtype': 'bfloat16'},
            'default_hooks': {'checkpoint': {'interval': 3, 'by_epoch': False}},
        },
        (5,),
        7,
    ),
}


@pytest.mark.parametrize('case', CASES)
def test_killed_and_resumed_is_uninterrupted(case: str, tmp_path: Path) -> None:
    loader, options, kills, last = CASES[case]
    assert in_process(tmp_path / 'whole', loader, **options) == 0
    for kill in kills:
        code = in_process(tmp_path / 'killed', loader, kill_in=kill, resume=True, **options)
        assert code == -signal.SIGKILL
    assert in_process(tmp_path / 'killed', loader, resume=True, **options) == 0
    whole, killed = (tmp_path / name / f'iter_{last}.pth' for name in ('whole', 'killed'))
    assert_same(weights(whole), weights(killed))
    a, b = (torch.load(path, weights_only=True) for path in (whole, killed))
    assert a['meta']['history'] == b['meta']['history']
    assert a['position'] == b['position']
    assert torch.equal(a['rng'][0]['torch'], b['rng'][0]['torch'])


def test_killed_while_writing(tmp_path: Path) -> None:
    options = {'train_cfg': {'max_epochs': 1}, 'default_hooks': {'checkpoint': {'interval': 1, 'by_epoch': False}}}
    assert in_process(tmp_path / 'whole', **options) == 0
    # Each checkpoint syncs its file, its folder, the pointer, its folder.
    for sync in (1, 2, 3, 4):
        assert in_process(tmp_path / 'killed', kill_at_sync=sync, resume=True, **options) == -signal.SIGKILL
        for file in (tmp_path / 'killed').glob('*.pth'):
            weights(file)
    assert in_process(tmp_path / 'killed', resume=True, **options) == 0
    assert_same(weights(tmp_path / 'whole/iter_4.pth'), weights(tmp_path / 'killed/iter_4.pth'))
    assert not list((tmp_path / 'killed').glob('.writing-*'))


def test_data_is_not_read_again(tmp_path: Path) -> None:
    log = tmp_path / 'reads'
    options = {'default_hooks': {'checkpoint': {'interval': 1, 'by_epoch': False}, 'label_mask': None}}
    one = toy_runner(tmp_path, {'log': str(log)}, train_cfg={'_delete_': True, 'max_iters': 2}, **options)
    one.train()
    first = log.read_text().split()
    log.write_text('')
    two = toy_runner(tmp_path, {'log': str(log)}, resume=True, train_cfg={'max_epochs': 1}, **options)
    two.train()
    rest = log.read_text().split()
    assert len(first) == 12  # 2 iterations of 3 micro-batches of 2
    assert sorted(map(int, first + rest)) == list(range(22))


def test_finished_run_has_nothing_to_do(tmp_path: Path) -> None:
    toy_runner(tmp_path).train()
    before = weights(tmp_path / 'iter_8.pth')
    runner = toy_runner(tmp_path, resume=True)
    runner.train()
    assert runner.iter == 8
    assert_same(before, weights(find_last(tmp_path)))


def test_more_epochs_go_on(tmp_path: Path) -> None:
    toy_runner(tmp_path, train_cfg={'max_epochs': 1}).train()
    runner = toy_runner(tmp_path, resume=True, train_cfg={'max_epochs': 3})
    runner.train()
    assert runner.iter == 12
    assert runner.optim_wrapper.get_lr()['lr/llm'][0] < 1e-3, 'the schedule ends with the longer run'


SCHEDULES = {
    'cosine': {'type': 'cosine', 'warmup_ratio': 0.3},
    'mmengine': [
        {'type': 'LinearLR', 'start_factor': 0.1, 'by_epoch': False, 'begin': 0, 'end': 3},
        {'type': 'CosineAnnealingLR', 'by_epoch': False, 'begin': 3, 'T_max': 5},
    ],
}


def test_changed_settings_take_effect_from_the_first_step(tmp_path: Path) -> None:
    """Rates, decay, betas and the schedule are those of the config; momentum goes on."""
    toy_runner(tmp_path, train_cfg={'max_epochs': 1}).train()
    changed = {
        'optim_wrapper': {'optimizer': {'lr': 1e-6, 'weight_decay': 0.5, 'betas': [0.5, 0.6]}},
        'param_scheduler': {'_delete_': True, 'type': 'constant'},
    }
    runner = toy_runner(tmp_path, resume=True, **changed)
    runner.load_or_resume()
    groups = runner.optim_wrapper.optimizer.param_groups
    assert {group['lr'] for group in groups} == {1e-6}
    assert {group['weight_decay'] for group in groups} == {0.5, 0.0}
    assert {tuple(group['betas']) for group in groups} == {(0.5, 0.6)}
    saved = torch.load(tmp_path / 'iter_4.pth', weights_only=True)['optimizer']['optimizer']['state']
    for number, state in runner.optim_wrapper.state_dict()['optimizer']['state'].items():
        assert torch.equal(state['exp_avg'].cpu(), saved[number]['exp_avg'])


@pytest.mark.parametrize('kind', SCHEDULES)
def test_an_unchanged_schedule_goes_on_bit_by_bit(tmp_path: Path, kind: str) -> None:
    options = {'param_scheduler': SCHEDULES[kind], 'default_hooks': {'checkpoint': {'interval': 2, 'by_epoch': False}}}
    whole = toy_runner(tmp_path / 'a', **options)
    rates: list[float] = []
    step = whole.train_loop.train_step
    lr = lambda runner: [group['lr'] for group in runner.optim_wrapper.optimizer.param_groups]  # noqa: E731
    whole.train_loop.train_step = lambda group: rates.append(lr(whole)) or step(group)
    whole.train()
    for file in (tmp_path / 'a').glob('iter_[46].pth'):
        runner = toy_runner(tmp_path / 'b', resume=str(file), **options)
        runner.load_or_resume()
        assert lr(runner) == rates[runner.iter]


def test_the_state_of_another_optimizer_is_refused(tmp_path: Path) -> None:
    toy_runner(tmp_path, train_cfg={'max_epochs': 1}).train()
    for optimizer in ({'amsgrad': True}, {'_delete_': True, 'type': 'RMSprop', 'lr': 1e-3}):
        runner = toy_runner(tmp_path, resume=True, optim_wrapper={'optimizer': optimizer})
        with pytest.raises(CheckpointError, match='the optimizer of the checkpoint keeps'):
            runner.load_or_resume()


def test_an_exchanged_annotation_file_is_noticed(tmp_path: Path) -> None:
    """As long as before, with as many records."""
    options = {'default_hooks': {'checkpoint': {'interval': 2, 'by_epoch': False}}}

    def runner(content: str, **more):
        made = toy_runner(tmp_path, **options, **more)
        made.train_loop.dataloader.dataset.fingerprint = {'annotations': content}
        return made

    runner('one', train_cfg={'max_epochs': 1}).train()
    with pytest.raises(CheckpointError, match='another order: annotations was one, is two'):
        runner('two', resume=str(tmp_path / 'iter_2.pth')).load_or_resume()
    said: list[str] = []
    at_end = runner('two', resume=True)
    at_end.logger.warning = said.append
    at_end.load_or_resume()
    assert 'the data is not what it was: annotations was one, is two' in said


def test_damaged_file_is_passed_over(tmp_path: Path) -> None:
    toy_runner(tmp_path).train()
    newest = tmp_path / 'iter_8.pth'
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    runner = toy_runner(tmp_path, resume=True)
    runner.load_or_resume()
    assert runner.iter == 4
    with pytest.raises(CheckpointError, match='cannot be read'):
        toy_runner(tmp_path, resume=str(newest)).load_or_resume()


def test_foreign_checkpoints_are_refused(tmp_path: Path) -> None:
    toy_runner(tmp_path, default_hooks={'checkpoint': {'interval': 1, 'by_epoch': False, 'max_keep_ckpts': -1}}).train()

    with pytest.raises(CheckpointError, match='another order: batches was 11, is 22'):
        toy_runner(tmp_path / 'a', {'batch_size': 1}, resume=str(tmp_path / 'iter_2.pth')).load_or_resume()
    at_end = toy_runner(tmp_path / 'b', {'batch_size': 1}, resume=str(tmp_path / 'iter_4.pth'))
    at_end.load_or_resume()  # nothing of the other order is left to read
    assert at_end.iter == 4

    other_base = toy_runner(tmp_path / 'c', resume=str(tmp_path / 'iter_2.pth'))
    other_base.base = {'path': 'pretrained/other', 'fingerprint': 'f00'}
    with pytest.raises(CheckpointError, match='another base'):
        other_base.load_or_resume()

    split = {'optim_wrapper': {'paramwise_cfg': {'parts': {'llm': {'weight_decay': 0.3}}}}}
    frozen = toy_runner(tmp_path / 'd', resume=str(tmp_path / 'iter_2.pth'), **split)
    for group in frozen.optim_wrapper.param_groups:
        group['names'] = group['names'][:1]
    with pytest.raises(CheckpointError, match='other parameters'):
        frozen.load_or_resume()
    with pytest.raises(CheckpointError, match=r'no checkpoint .*iter_99.pth'):
        toy_runner(tmp_path / 'e', resume=str(tmp_path / 'iter_99.pth')).load_or_resume()


def test_a_checkpoint_that_does_not_say_where_it_stood(tmp_path: Path) -> None:
    toy_runner(tmp_path, train_cfg={'max_epochs': 1}).train()
    content = torch.load(tmp_path / 'iter_4.pth', weights_only=True)
    content['position']['order'] = 'junk'
    content['meta']['history'] = None
    torch.save(content, tmp_path / 'iter_4.pth')
    with pytest.raises(CheckpointError, match=r'where a run stood: meta\.history, position\.order'):
        toy_runner(tmp_path, resume=True).load_or_resume()


@pytest.mark.parametrize(
    ('place', 'key', 'value', 'what'),
    [
        ('meta', 'history', ['junk'], r'where a run stood: meta\.history'),
        ('rng', 0, 'junk', 'where a run stood: rng'),
        ('rng', 0, {}, 'random state'),
        ('rng', 0, {'torch': 5}, 'random state'),
    ],
)
def test_junk_in_what_resuming_needs(tmp_path: Path, place, key, value, what) -> None:
    toy_runner(tmp_path, train_cfg={'max_epochs': 1}).train()
    content = torch.load(tmp_path / 'iter_4.pth', weights_only=True)
    content[place][key] = value
    torch.save(content, tmp_path / 'iter_4.pth')
    with pytest.raises(CheckpointError, match=what):
        toy_runner(tmp_path, resume=True).load_or_resume()


def test_init_from_takes_weights_only(tmp_path: Path) -> None:
    toy_runner(tmp_path / 'a').train()
    for source in ('a/iter_8.pth', 'a', 'a/last'):
        runner = toy_runner(tmp_path / 'b', init_from=str(tmp_path / source))
        runner.load_or_resume()
        assert runner.iter == 0
        trained = {n: p for n, p in runner.model.named_parameters() if p.requires_grad}
        assert_same(weights(tmp_path / 'a' / 'iter_8.pth'), trained)


def test_without_a_seed_the_data_keeps_its_order(tmp_path: Path) -> None:
    """A seed that nobody chose is drawn anew in every process; the checkpoint knows the one that ordered the data."""
    first = toy_runner(tmp_path, seed=None, train_cfg={'max_epochs': 1})
    first.train()
    again = toy_runner(tmp_path, seed=None, resume=True)
    assert again.seed != first.seed
    assert again.data_seed == first.data_seed
