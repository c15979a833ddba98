"""``mmft pth_to_hf MODEL OUT``: a checkpoint as a directory for transformers, LMDeploy and ``mmft.load``."""

from __future__ import annotations

import argparse
from typing import Any

from mmft.cli.options import add_cfg_options
from mmft.cli.targets import MODEL, grouped, named_target
from mmft.words import count_of

__all__ = ['INTERMIXED', 'add_arguments', 'run']

INTERMIXED = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``pth_to_hf``."""
    parser.add_argument(
        'words',
        nargs='+',
        metavar='MODEL OUT',
        help=f'{MODEL}, CONFIG CKPT, or CONFIG none: the base weights of a config as they are; then the directory to '
        'make',
    )
    parser.add_argument(
        '--layout',
        choices=('hf', 'official', 'native'),
        default='hf',
        help="hf: transformers' own InternVL, LLaVA or LLaVA-NeXT, for everything; official: the names of OpenGVLab, "
        'LLaVA or TinyLLaVA; native: any mix, for mmft.load (default: hf)',
    )
    parser.add_argument('--adapter', action='store_true', help='a PEFT adapter directory instead of merged weights')
    parser.add_argument(
        '--dtype', default='auto', help="of all weights: bfloat16, float16, float32 (default: the base's)"
    )
    parser.add_argument('--max-shard-size', default='5GB', metavar='SIZE', help='of a weight file (default: 5GB)')
    parser.add_argument(
        '--check',
        choices=('auto', 'full', 'weights', 'none'),
        default='auto',
        help='before the directory gets its name: full loads it (adapters: through peft) and compares logits, weights '
        'compares every tensor in little memory (default: full where memory allows)',
    )
    parser.add_argument('--force', action='store_true', help='replace OUT if it exists')
    add_cfg_options(parser, 'such as pretrained=PATH')
    parser.add_argument('--base', metavar='DIR', help='what an adapter was trained on, if not where it says')


def run(args: argparse.Namespace) -> None:
    """Convert, and say what came out."""
    from mmft.export import convert

    config, checkpoint, out = _source(args)
    made = convert(
        config,
        checkpoint,
        out,
        base=args.base,
        layout=args.layout,
        adapter=args.adapter,
        dtype=args.dtype,
        max_shard_size=args.max_shard_size,
        check=args.check,
        force=args.force,
        log=print,
    )
    times = ', '.join(f'{name} {seconds:.1f} s' for name, seconds in made.seconds.items())
    print(f'{made.path}: {count_of(len(made.files), "file")}, {made.nbytes / 1e9:.2f} GB ({times})')
    for name, value in made.measured.items():
        print(f'  {name}: {value:.3g}')


def _source(args: argparse.Namespace) -> tuple[Any, Any, str]:
    """What ``convert`` takes: the config, the checkpoint or None, and where to write."""
    from mmft.cli.configs import load_config
    from mmft.errors import ConfigError
    from mmft.export.model_path import is_url

    *words, out = args.words
    if len(words) == 2 and words[1] == 'none':
        return load_config(words[0], args.cfg_options), None, out
    if len(groups := grouped(words)) != 1:
        raise ConfigError(
            f'{count_of(len(groups), "model")} to write to {out}: {" ".join(words) or "none"}', expected='MODEL OUT'
        )
    target = named_target(groups[0], args)
    if isinstance(target, tuple):
        return *target, out
    if is_url(target):
        raise ConfigError(f'{target} is a server', expected='a checkpoint or a model directory')
    return {'pretrained': target}, None, out
