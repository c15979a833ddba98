"""``mmft train`` from the command line: a tiny InternVL2 learns, and failures say what to do and set the status."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mmft.cli.configs import apply_options, load_config
from mmft.cli.main import main
from mmft.cli.other_flags import PLACES
from mmft.engine import Runner
from tests.engine.tiny import ROOT, write_tiny


@pytest.fixture(scope='module')
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp('tiny'))


def tensors(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)['state_dict']


def test_train_and_resume(config: Path, tmp_path: Path) -> None:
    options = ['--cfg-options', 'default_hooks.checkpoint.by_epoch=False', 'train_dataloader.num_workers=2']
    assert main(['train', str(config), '--work-dir', str(tmp_path / 'a'), *options]) == 0
    content = torch.load(tmp_path / 'a' / 'iter_6.pth', weights_only=True)
    # Of random weights no file holds the frozen ones: the checkpoint does, beside what it trains.
    trained = set(content['state_dict']) - set(content['meta']['initialised'])
    assert all('lora_' in name or name.startswith('projector') for name in trained)
    assert 'vision.embeddings.class_embedding' in content['meta']['initialised']
    assert content['encoder']['tokens_per_tile'] == 4
    assert content['meta']['tune']['llm']['r'] == 4
    assert 'exact_match' in content['meta']['history'][0]

    # Stop in the middle of the second epoch, go on with the command that a user would type.
    stop = [*options, 'train_cfg.max_epochs=2']
    assert main(['train', str(config), '--work-dir', str(tmp_path / 'b'), *stop]) == 0
    for file in ('iter_5.pth', 'iter_6.pth', 'last_checkpoint', 'best.pth'):
        (tmp_path / 'b' / file).unlink()
    assert main(['train', str(config), '--work-dir', str(tmp_path / 'b'), '--resume', *stop]) == 0
    resumed = tensors(tmp_path / 'b' / 'iter_6.pth')
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in content['state_dict'].items())


def test_what_is_resumed_keeps_its_seed(config: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The config says 0 all the while; the run was started with another."""
    options = ['--cfg-options', 'default_hooks.checkpoint.by_epoch=False', 'val_dataloader=None']
    run = ['train', str(config), '--work-dir', str(tmp_path), *options]
    assert main([*run, '--seed', '3']) == 0
    whole = tensors(tmp_path / 'iter_6.pth')
    for file in ('iter_5.pth', 'iter_6.pth', 'last_checkpoint'):
        (tmp_path / file).unlink()
    capfd.readouterr()
    assert main([*run, '--resume']) == 0
    said = ''.join(capfd.readouterr())
    assert 'the config is not the one' not in said
    assert 'seed = 0 of the config is not used: the run goes on with seed 3' in said
    assert any('the run goes on with seed 3' in log.read_text() for log in tmp_path.rglob('*.log'))
    content = torch.load(tmp_path / 'iter_6.pth', weights_only=True)
    assert content['meta']['seed'] == 3
    assert all(torch.equal(tensor, content['state_dict'][name]) for name, tensor in whole.items())

    # Said on the command line it is meant, and the data comes in another order from the next epoch on.
    for seed in (['--seed', '0'], ['--cfg-options', *options[1:], 'seed=0']):
        assert main([*run, '--resume', str(tmp_path / 'iter_6.pth'), *seed]) == 0
        assert 'seed was 3, is 0' in ''.join(capfd.readouterr())
    # Where there is nothing to continue the config's own counts.
    assert main(['train', str(config), '--work-dir', str(tmp_path / 'new'), *options, 'train_cfg.max_epochs=1',
                 '--resume']) == 0  # fmt: skip
    assert torch.load(tmp_path / 'new' / 'iter_3.pth', weights_only=True)['meta']['seed'] == 0


def test_a_dry_run_finds_mistakes(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ['train', str(config), '--work-dir', str(tmp_path), '--dry-run']
    assert main(run) == 0
    assert 'before it can train' not in capsys.readouterr().out
    # Weights and data that are not there yet are told, and are no mistake.
    there = ['pretrained=gone', 'train_dataloader.dataset.ann_file=gone.jsonl']
    assert main([*run, '--cfg-options', *there]) == 0
    told = capsys.readouterr().out
    assert "pretrained = 'gone' does not exist" in told
    assert 'memory of one GPU' in told

    wrong = ['param_scheduler.type=cosin', 'optim_wrapper.optimizer.type=AdamX']
    assert main([*run, '--seed', '-1', '--cfg-options', *wrong]) == 1
    told = capsys.readouterr().out
    assert 'memory of one GPU' in told
    for text in ('3 problems in the config', 'seed = -1', "'cosin'", "'AdamX'"):
        assert text in told
    # Where nothing can be measured all problems are the answer, as without --dry-run.
    wrong = ['tune.llm.r=0', 'model.vision.hidden_size=33', 'tune.vision=["type"]']
    for arguments in ([*run, '--deepspeed', 'zero9'], [*run[:-1], '--deepspeed', 'zero9']):
        assert main([*arguments, '--cfg-options', *wrong]) == 1
        told = capsys.readouterr()
        assert 'memory of one GPU' not in told.out
        for text in ("deepspeed = 'zero9'", 'tune.llm.r = 0', 'InternViT', 'tune.vision: type'):
            assert text in told.err
    assert main([*run, '--cfg-options', 'tune.vision={"type":"lora","r":4,"from_layer":1}']) == 0
    assert 'lora r=4 alpha=' in capsys.readouterr().out
    assert main([*run, '--gpus', '0']) == 1
    assert '--gpus 0' in capsys.readouterr().err


def test_a_reader_that_leaves_ends_the_output_quietly(config: Path, tmp_path: Path) -> None:
    for arguments in ('list-cfg', f'train {config} --dry-run --work-dir {tmp_path}'):
        command = f'{sys.executable} -m mmft.cli.main {arguments} | true; exit ${{PIPESTATUS[0]}}'
        done = subprocess.run(['bash', '-c', command], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 141
        assert 'BrokenPipe' not in done.stderr


def test_errors_set_the_status(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(*arguments: str) -> str:
        assert main(['train', str(config), '--work-dir', str(tmp_path), *arguments]) == 1
        return capsys.readouterr().err

    assert 'did you mean optim_wrapper.optimizer.lr' in fails('--cfg-options', 'optim_wrapper.optimizer.rl=1')
    missing = fails('--cfg-options', 'pretrained=pretrained/InternVL2-2B', '+pretrained_repo=OpenGVLab/InternVL2-2B')
    assert 'hf download OpenGVLab/InternVL2-2B --local-dir pretrained/InternVL2-2B' in missing
    assert 'no checkpoint' in fails('--resume', str(tmp_path / 'iter_7.pth'))
    diverged = fails(
        '--cfg-options', 'optim_wrapper.optimizer.lr=1e20', 'optim_wrapper.paramwise_cfg.parts.projector.lr=1e20'
    )
    assert ' is nan' in diverged or ' is inf' in diverged
    assert 'train.jsonl:' in diverged
    assert main(['train', 'no_such_config_anywhere']) == 1
    with pytest.raises(SystemExit, match='2'):
        main(['train'])
    with pytest.raises(SystemExit, match='2'):
        main(['trane', str(config)])


def test_a_bad_picture_in_a_worker_is_one_clear_error(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = config.parent / 'broken'
    broken.mkdir()
    data = (config.parent / 'data' / '0.png').read_bytes()
    (broken / '0.png').write_bytes(data[: len(data) // 2])
    first = (config.parent / 'data' / 'train.jsonl').read_text().splitlines()[0]
    (broken / 'train.jsonl').write_text(first + '\n')
    text = str(broken)
    options = [
        f'train_dataloader.dataset.{k}={v}' for k, v in (('ann_file', f'{text}/train.jsonl'), ('image_root', text))
    ]
    options += ['train_dataloader.num_workers=1', 'default_hooks.label_mask=None']
    assert main(['train', str(config), '--work-dir', str(tmp_path), '--cfg-options', *options]) == 1
    shown = capsys.readouterr().err
    assert 'train.jsonl:1: ' in shown
    assert 'Traceback' not in shown.split('error:')[-1]


def test_a_process_that_fails_ends_with_status_1(config: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / 'tools' / 'train.py'), str(config), '--cfg-options', 'seeed=1']
    done = subprocess.run(
        command, env={**os.environ, 'PYTHONPATH': str(ROOT)}, capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 1
    assert 'did you mean seed' in done.stderr
    assert 'Traceback' not in done.stderr


ENVIRONMENT = ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'SLURM_NTASKS', 'SLURM_STEP_NUM_TASKS',
               'OMPI_COMM_WORLD_SIZE', 'PMI_SIZE', 'TORCHELASTIC_RUN_ID')  # fmt: skip


@pytest.mark.parametrize(
    ('environment', 'arguments', 'advice'),
    [
        # What `deepspeed --include localhost:0,1 tools/train.py CONFIG` gives its processes.
        ({'RANK': '1', 'WORLD_SIZE': '2', 'LOCAL_RANK': '1'}, ['--local_rank=1'], '--launcher pytorch, or --deepspeed'),
        ({'SLURM_NTASKS': '4', 'SLURM_PROCID': '0'}, [], '--launcher slurm'),
        ({'SLURM_NTASKS': '4', 'SLURM_PROCID': '0'}, ['--deepspeed', 'zero2'], '--launcher slurm'),
        ({'OMPI_COMM_WORLD_SIZE': '2'}, [], '--launcher mpi'),
        ({'PMI_SIZE': '2'}, [], 'torchrun'),
        ({'WORLD_SIZE': 'two'}, [], "WORLD_SIZE='two' in the environment"),
        ({'SLURM_NTASKS': '-4'}, [], "SLURM_NTASKS='-4' in the environment"),
        ({'SLURM_NTASKS': '1', 'WORLD_SIZE': '1', 'RANK': '0'}, [], ''),
        # A shell on one of several tasks' places, and a process that is to be alone.
        ({'SLURM_NTASKS': '4', 'SLURM_STEP_NUM_TASKS': '1'}, [], ''),
        ({'SLURM_NTASKS': '4'}, ['--launcher', 'none'], ''),
        ({'WORLD_SIZE': '2', 'RANK': '0', 'LOCAL_RANK': '0'}, ['--deepspeed', 'zero2'], ''),
        ({'WORLD_SIZE': '2', 'RANK': '0', 'TORCHELASTIC_RUN_ID': 'x'}, [], ''),
    ],
)
def test_a_launcher_that_is_not_followed_is_an_error(
    config: Path, tmp_path: Path, environment: dict, arguments: list, advice: str, monkeypatch: Any, capsys: Any
) -> None:
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    command = ['train', *arguments, str(config), '--work-dir', str(tmp_path / 'run')]
    assert main([*command, '--dry-run']) == bool(advice)
    assert advice in ''.join(capsys.readouterr())
    if advice:
        assert main(command) == 1
        assert advice in capsys.readouterr().err
        assert not (tmp_path / 'run').exists()


def test_tf32_is_set_where_the_config_names_it(config: Path, tmp_path: Path) -> None:
    """As LLaVA's --tf32. It needs no plus, though the config does not have the key."""
    kept = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    try:
        for value in (True, False):
            cfg = load_config(str(config), [f'tf32={value}', f'work_dir={tmp_path / str(value)}'])
            Runner.from_cfg(cfg)
            assert torch.backends.cuda.matmul.allow_tf32 is torch.backends.cudnn.allow_tf32 is value
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = kept


@pytest.mark.parametrize(
    ('arguments', 'advice'),
    [
        (['--lr', '1e-5'], '--cfg-options optim_wrapper.optimizer.lr=1e-5'),
        (['--learning-rate=2e-4'], '--cfg-options optim_wrapper.optimizer.lr=2e-4'),
        (['--batch-size', '4'], '--cfg-options train_dataloader.batch_size=4'),
        (['--output_dir', 'runs/a'], '--work-dir runs/a'),
        (['--bf16', 'True', '--num_train_epochs', '3'], '--cfg-options train_cfg.max_epochs=3'),
        (['--worc-dir', 'a'], 'did you mean --work-dir?'),
        (['--unheard-of'], '--cfg-options KEY=VALUE'),
    ],
)
def test_options_of_other_tools_are_told_their_place(arguments: list, advice: str, capsys: Any) -> None:
    for command in (['train', 'internvl2_2b_food_lora', *arguments], ['train', *arguments, 'internvl2_2b_food_lora']):
        with pytest.raises(SystemExit, match='2'):
            main(command)
        assert advice in capsys.readouterr().err


def test_every_place_is_in_a_config() -> None:
    """And takes a value there; one that a config need not have is written with a plus."""
    cfg = load_config('internvl2_2b_food_lora')
    for names, place in PLACES.items():
        value = '2' if 'interval' in place else '1'
        apply_options(cfg, [word.strip("'") for word in place.split(' (')[0].format(value=value).split(' ')]
                      if "'" not in place else [place.strip("'").format(value=value)])  # fmt: skip
        assert names


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        'import sys\nfrom mmft.cli.main import main\n'
        "try:\n    main(['train', '--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "assert not {'torch', 'transformers', 'mmengine', 'numpy'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, '-c', code],
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert '--cfg-options' in done.stdout
