"""Files that are whole or absent, that hold plain things only, and the right ones of which are kept."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook

from mmft.engine.hooks import CheckpointHook
from mmft.engine.optim import build_optim_wrapper
from mmft.engine.resume import read_resumable
from mmft.engine.run_folder import find_last, new_run, point_to, read_checkpoint, write_atomic
from mmft.engine.training_state import get_rng, load_trained, plain, set_rng, trained_state
from mmft.errors import CheckpointError, ConfigError
from tests.engine.toy import ToyVLM, toy_runner


def test_write_atomic_keeps_the_old_file_when_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_atomic({'a': torch.ones(2)}, tmp_path / 'x.pth')

    def full(handle: int) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(CheckpointError, match='No space'):
        write_atomic({'a': torch.zeros(2)}, path)
    assert torch.equal(torch.load(path, weights_only=True)['a'], torch.ones(2))


def test_rng_round_trip_through_a_file(tmp_path: Path) -> None:
    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(5)
    np.random.randn(3)
    random.gauss(0, 1)
    path = write_atomic(plain(get_rng()), tmp_path / 'rng.pth')

    def draw() -> tuple:
        return torch.rand(3).tolist(), np.random.randn(2).tolist(), random.gauss(0, 1), random.random()

    expected = draw()
    set_rng(torch.load(path, weights_only=True))
    assert draw() == expected


def test_plain_refuses_what_would_need_pickle() -> None:
    from mmengine.config import ConfigDict

    assert type(plain(ConfigDict(a=ConfigDict(b=(1, 2.0))))['a']) is dict
    assert plain({'n': np.float32(0.5), 't': torch.bfloat16, 'flag': True}) == {
        'n': 0.5,
        't': 'torch.bfloat16',
        'flag': True,
    }
    with pytest.raises(TypeError, match='ToyVLM'):
        plain({'model': ToyVLM()})


def test_read_checkpoint_explains(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match='no checkpoint'):
        read_checkpoint(tmp_path / 'iter_1.pth')
    (tmp_path / 'iter_1.pth').write_bytes(b'PK\x03\x04 half a file')
    with pytest.raises(CheckpointError, match='cannot be read'):
        read_checkpoint(tmp_path / 'iter_1.pth')
    torch.save({'weights': torch.ones(1)}, tmp_path / 'foreign.pth')
    with pytest.raises(CheckpointError, match='not a training checkpoint'):
        read_checkpoint(tmp_path / 'foreign.pth')


def test_reading_runs_no_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return os.system, (f'touch {tmp_path}/ran',)

    torch.save({'state_dict': {}, 'meta': Evil()}, tmp_path / 'iter_1.pth')
    with pytest.raises(CheckpointError, match='cannot be read'):
        read_checkpoint(tmp_path / 'iter_1.pth')
    assert not (tmp_path / 'ran').exists()


def checkpoint(directory: Path, iteration: int, run: str | None = None) -> Path:
    """A file that says of which run it is."""
    meta = {'iter': iteration} | ({} if run is None else {'run': run})
    return write_atomic({'state_dict': {}, 'meta': meta}, directory / f'iter_{iteration}.pth')


def test_find_last(tmp_path: Path) -> None:
    assert find_last(tmp_path) is None
    assert find_last(tmp_path / 'missing') is None
    for name in ('.writing-iter_11.pth', 'best.pth'):
        (tmp_path / name).touch()
    checkpoint(tmp_path, 9, '1-aa')
    later = checkpoint(tmp_path, 10, '1-aa')
    assert find_last(tmp_path).name == 'iter_10.pth'
    pointer = tmp_path / 'last_checkpoint'
    pointer.write_text('iter_9.pth')
    assert find_last(tmp_path).name == 'iter_10.pth', 'killed before the pointer was renamed'
    os.utime(later, ns=(0, 0))
    assert find_last(tmp_path).name == 'iter_10.pth', 'whatever the clock says'
    for other in ('2-bb', None):
        checkpoint(tmp_path, 10, other)
        assert find_last(tmp_path).name == 'iter_9.pth', 'of another run'
    point_to(tmp_path, 'iter_9.pth', '2-bb')
    assert find_last(tmp_path).name == 'iter_9.pth', 'run 2 starts from it'
    checkpoint(tmp_path, 11, '2-bb')
    assert find_last(tmp_path).name == 'iter_11.pth', 'and was killed after its first checkpoint'
    point_to(tmp_path, None, '3-cc')
    assert find_last(tmp_path) is None, 'run 3 has saved nothing yet'
    checkpoint(tmp_path, 4, '3-cc')
    assert find_last(tmp_path).name == 'iter_4.pth'


UTF16 = 'iter_4.pth'.encode('utf-16')
UNREADABLE = [b'', b'\x00' * 20, UTF16, b'\xff\xfe\xfajunk', b'iter_99.pth', b'none', b'a b c', None]


@pytest.mark.parametrize('content', UNREADABLE)
def test_a_pointer_that_cannot_be_followed_is_passed_over(tmp_path: Path, content: bytes | None) -> None:
    """None of them starts again from nothing, nor goes on with the run before."""
    for iteration, run in ((8, '1-aa'), (2, '2-bb'), (4, '2-bb'), (6, '')):
        checkpoint(tmp_path, iteration, run)
    pointer = tmp_path / 'last_checkpoint'
    pointer.mkdir() if content is None else pointer.write_bytes(content)
    assert find_last(tmp_path).name == 'iter_4.pth'
    said: list[str] = []
    path, _ = read_resumable(tmp_path, None, SimpleNamespace(warning=said.append))
    assert path.name == 'iter_4.pth'
    assert 'last_checkpoint ' + ('names iter_99' if content == b'iter_99.pth' else 'cannot be read') in said[0]
    assert new_run(tmp_path).startswith('3-')


class Dies(Hook):
    """Ends a run in the middle."""

    def __init__(self, after: int) -> None:
        self.after = after

    def before_train_iter(self, runner: Any, *_: Any, **__: Any) -> None:
        if runner.iter == self.after:
            raise KeyboardInterrupt


def test_resume_never_goes_on_with_an_older_run_of_the_folder(tmp_path: Path) -> None:
    options = {'default_hooks': {'checkpoint': {'interval': 2, 'by_epoch': False, 'max_keep_ckpts': -1}}}
    toy_runner(tmp_path, **options).train()
    old = {path.name: path.read_bytes() for path in tmp_path.glob('iter_*.pth')}
    assert set(old) == {'iter_2.pth', 'iter_4.pth', 'iter_6.pth', 'iter_8.pth'}

    def killed(after: int, **more: Any) -> None:
        runner = toy_runner(tmp_path, seed=5, **options, **more)
        runner.register_hook(Dies(after))
        with pytest.raises(KeyboardInterrupt):
            runner.train()

    killed(1)
    assert find_last(tmp_path) is None, 'this run has saved nothing yet'
    killed(5)
    assert find_last(tmp_path).name == 'iter_4.pth'
    killed(5, resume=str(tmp_path / 'iter_2.pth'))  # back to an earlier one, then on to 4 again
    assert find_last(tmp_path).name == 'iter_4.pth'
    killed(3, resume=str(tmp_path / 'iter_2.pth'))
    assert find_last(tmp_path).name == 'iter_2.pth', 'iter_4 is of the branch that was left'
    assert {(tmp_path / name).read_bytes() == old[name] for name in ('iter_6.pth', 'iter_8.pth')} == {True}


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    """``torch.load`` would take it."""
    path = write_atomic({'state_dict': {'a': torch.zeros(5000)}, 'meta': {}}, tmp_path / 'iter_1.pth')
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert torch.load(path, weights_only=True)['state_dict']['a'].any()
    with pytest.raises(CheckpointError, match='sums differ'):
        read_checkpoint(path)


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomic('old', tmp_path / 'iter_1.pth')

    def full(*_: Any) -> None:
        raise RuntimeError('[enforce fail at inline_container.cc:672] . unexpected pos 452544 vs 452432')

    monkeypatch.setattr(torch, 'save', full)
    with pytest.raises(CheckpointError, match=r'(?s)iter_1.pth could not be written.*MB are free'):
        write_atomic({}, tmp_path / 'iter_1.pth')
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [('iter_1.pth', 'old')]


def test_load_trained_names_what_does_not_fit() -> None:
    model = ToyVLM()
    optim = build_optim_wrapper(model, {'optimizer': {'type': 'AdamW', 'lr': 1.0}})
    state = trained_state(model, optim)
    assert not any(name.startswith('vision') for name in state)

    def load(state: dict, **meta) -> None:
        load_trained(model, optim, {'state_dict': state, 'meta': meta}, 'x.pth')

    with pytest.raises(CheckpointError, match=r'missing llm\.body\.bias'):
        load({k: v for k, v in state.items() if k != 'llm.body.bias'})
    with pytest.raises(CheckpointError, match='not trained here other'):
        load({**state, 'other': torch.ones(1)})
    with pytest.raises(CheckpointError, match='other shapes'):
        load({**state, 'llm.body.bias': torch.ones(3)})
    # What a checkpoint holds beside the trained tensors is no mistake; the model has it from its start.
    load({**state, 'llm.body.bias': torch.full((16,), 7.0), 'vision.bias': torch.ones(16)}, initialised=['vision.bias'])
    assert model.llm['body'].bias.eq(7).all()


def test_last_k_and_best_are_kept(tmp_path: Path) -> None:
    hook = {'checkpoint': {'interval': 1, 'by_epoch': False, 'max_keep_ckpts': 2, 'save_best': 'loss'}}
    runner = toy_runner(tmp_path, val=True, default_hooks=hook)
    runner.train()
    assert sorted(p.name for p in tmp_path.glob('*.pth')) == ['best.pth', 'iter_7.pth', 'iter_8.pth']
    assert (tmp_path / 'last_checkpoint').read_text() == 'iter_8.pth'
    best = read_checkpoint(tmp_path / 'best.pth')
    losses = {row['iter']: row['loss'] for row in runner.history}
    assert best['meta']['iter'] == min(losses, key=losses.get) == runner.best['iter']


def test_a_checkpoint_says_everything_about_itself(tmp_path: Path) -> None:
    toy_runner(tmp_path, train_cfg={'max_epochs': 1}).train()
    content = torch.load(tmp_path / 'iter_4.pth', weights_only=True)
    assert set(content) == {
        'state_dict', 'optimizer', 'param_names', 'param_schedulers', 'rng', 'position', 'encoder', 'meta',
    }  # fmt: skip
    meta = content['meta']
    assert meta['iter'] == 4
    assert meta['config']['optim_wrapper']['optimizer']['type'] == 'AdamW'
    assert json.loads(json.dumps(meta['config'], allow_nan=False)) == meta['config']
    assert set(meta) >= {'mmft_version', 'base', 'tune', 'seed', 'world_size', 'history', 'best'}
    assert content['encoder'] == {'format': 1, 'kind': 'toy'}


@pytest.mark.parametrize('options', [{'save_best': 'bleu'}, {'max_keep_ckpts': 0}, {'interval': -1}])
def test_wrong_hook_options(options: dict) -> None:
    with pytest.raises(ConfigError):
        CheckpointHook(**options)


def test_of_equals_the_one_of_lower_loss_is_best(tmp_path: Path) -> None:
    runner = toy_runner(tmp_path, val=True)
    hook = next(hook for hook in runner.hooks if isinstance(hook, CheckpointHook))
    kept = []
    for iteration, (match, loss) in enumerate(
        [(0.5, 2.0), (0.5, 1.0), (0.5, 1.5), (0.25, 0.1), (float('nan'), 0.0)], 1
    ):
        runner.train_loop.iter = iteration
        hook.after_val_epoch(runner, {'loss': loss, 'exact_match': match})
        kept.append(runner.best['iter'])
    assert kept == [1, 2, 2, 2, 2]
    runner.val_loop.dataloader.dataset.fingerprint = 'other'
    hook.after_val_epoch(runner, {'loss': 3.0, 'exact_match': 0.1})
    assert runner.best['iter'] == 5, 'nothing is known to be better on other data'
    assert read_checkpoint(tmp_path / 'best.pth')['meta']['iter'] == 5


def test_the_best_of_an_earlier_run_is_set_aside(tmp_path: Path) -> None:
    toy_runner(tmp_path, val=True).train()
    best = (tmp_path / 'best.pth').read_bytes()
    again = toy_runner(tmp_path, val=True, resume=True)
    again.train()
    assert again.best['iter'], 'it is still that of the run that goes on'
    assert (tmp_path / 'best.pth').read_bytes() == best
    other = toy_runner(tmp_path, val=True, seed=5)
    other.register_hook(Dies(1))
    with pytest.raises(KeyboardInterrupt):
        other.train()
    assert not (tmp_path / 'best.pth').exists()
    assert [path.read_bytes() for path in tmp_path.glob('best_before_*.pth')] == [best]


def test_save_best_without_a_validation_that_gives_it(tmp_path: Path) -> None:
    hook = {'checkpoint': {'save_best': 'loss'}}
    with pytest.raises(ConfigError, match='there is no validation'):
        toy_runner(tmp_path, default_hooks=hook).train()
    with pytest.raises(ConfigError, match='there is no validation'):
        toy_runner(tmp_path, val=True, train_cfg={'val_interval': 0}, default_hooks=hook).train()


def test_only_a_full_disk_is_called_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        os, 'replace', lambda *_: (tmp_path / 'gone').rename(tmp_path / 'x')
    )  # another process was here
    with pytest.raises(CheckpointError, match='No such file') as caught:
        write_atomic('text', tmp_path / 'iter_1.pth')
    assert 'MB' not in str(caught.value)
    assert 'by this run alone' in str(caught.value)
