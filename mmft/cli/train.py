"""``mmft train CONFIG``: fine-tune the model of a config."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from mmft.cli.options import add_cfg_options
from mmft.errors import ConfigError

if TYPE_CHECKING:
    from mmengine.config import Config

    from mmft.engine.judging.config import Problems

__all__ = ['add_arguments', 'prepare', 'run']


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``train``."""
    parser.add_argument('config', help='a config file, or the bare name of one in configs/')
    parser.add_argument('--work-dir', help='where logs and checkpoints go (default: work_dirs/<config name>)')
    add_cfg_options(
        parser, 'change the config: optim_wrapper.optimizer.lr=5e-5; +key=value adds a key that it does not have'
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const=True,
        default=None,
        metavar='PATH',
        help='continue the last checkpoint of the work_dir, or the one named',
    )
    parser.add_argument(
        '--launcher',
        choices=('none', 'pytorch', 'slurm', 'mpi'),
        default=None,
        help='what started the processes; none: this one trains alone',
    )
    parser.add_argument(
        '--deepspeed', metavar='NAME', help='zero1, zero2, zero3, zero2_offload, zero3_offload, or a JSON file'
    )
    parser.add_argument('--seed', type=int, help='seed of new weights, data order and dropout')
    parser.add_argument(
        '--dry-run', action='store_true', help='print parts, parameters, tokens and memory; train nothing'
    )
    parser.add_argument(
        '--gpus', type=int, metavar='N', help='with --dry-run: GPUs that share the work (in a run torchrun sets it)'
    )
    # torch.distributed.launch passes it; torchrun says the same in the environment.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=None, help=argparse.SUPPRESS)


def prepare(args: argparse.Namespace) -> Config:
    """The config with the options of the command line."""
    from mmft.cli.configs import find_config, load_config

    cfg = load_config(args.config, args.cfg_options)
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs') / find_config(args.config).stem)
    for key in ('resume', 'launcher', 'deepspeed', 'seed'):
        if getattr(args, key) is not None:
            cfg[key] = getattr(args, key)
    if args.launcher is None and 'TORCHELASTIC_RUN_ID' in os.environ and cfg.get('launcher', 'none') == 'none':
        cfg.launcher = 'pytorch'  # nothing else can be meant under torchrun
    if args.local_rank is not None:
        os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return cfg


def keep_seed(args: argparse.Namespace, cfg: Config) -> str:
    """Give the config the seed of the run that it resumes, unless the command line names one.

    Returns:
        What to tell the user where the config has come to name another seed since; else nothing.
    """
    from mmft.engine.resume import stored_seed

    named = cfg.get('seed')
    seed = stored_seed(cfg.work_dir, cfg.resume) if cfg.get('resume') and not _names_seed(args) else None
    if seed is None or seed == named:
        return ''
    cfg.seed = seed
    return f'seed = {named} of the config is not used: the run goes on with seed {seed} (--seed {named} changes it)'


def _names_seed(args: argparse.Namespace) -> bool:
    options = (option.partition('=')[0].removeprefix('+') for option in args.cfg_options)
    return args.seed is not None or 'seed' in options


def _problems(args: argparse.Namespace, cfg: Config) -> Problems:
    """Those of the config, and a launcher whose other processes nothing in the command or the config follows."""
    from mmft.engine.judging.config import find_problems
    from mmft.engine.launch import check_launched_alone
    from mmft.engine.strategies import strategy_of

    problems = find_problems(cfg)
    if args.launcher is None and (cfg.get('launcher') or 'none') == 'none':
        try:
            check_launched_alone(strategy_of(cfg).launcher)
        except ConfigError as error:
            problems.wrong.append(str(error))
    return problems


def run(args: argparse.Namespace) -> int:
    """Train, or print what would be trained.

    Returns:
        The exit status: 1 where a dry run finds mistakes in the config. Missing weights and data are not mistakes.

    Raises:
        ConfigError: all that is wrong with the config.
    """
    if args.gpus is not None and args.gpus < 1:
        raise ConfigError(f'--gpus {args.gpus}', expected='a whole number from 1')
    cfg = prepare(args)
    note = keep_seed(args, cfg)
    if args.dry_run:
        from mmft.engine.planning.dry_run import plan

        problems = _problems(args, cfg)
        print(plan(cfg, args.gpus, problems), *filter(None, [note]), sep='\n')
        return 1 if problems.wrong else 0
    if args.gpus is not None:
        raise ConfigError(
            '--gpus counts GPUs for --dry-run only',
            fix=f'torchrun --nproc_per_node={args.gpus} tools/train.py {args.config} ...',
        )
    from mmft.engine import Runner
    from mmft.engine.compat import leave_distributed
    from mmft.engine.signals import explained_end

    if error := _problems(args, cfg).error:
        raise error
    with explained_end(cfg.work_dir):
        runner = Runner.from_cfg(cfg)
        if note:
            runner.logger.warning(note)
        runner.train()
    leave_distributed()
    return 0
