"""``mmft pth_to_hf CONFIG CKPT OUT``: a checkpoint as a directory for transformers, LMDeploy and ``mmft.load``."""

from __future__ import annotations

import argparse

from mmft.cli.options import add_cfg_options

__all__ = ['add_arguments', 'run']


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``pth_to_hf``."""
    parser.add_argument(
        'config', help='the config of the training: a file (the copy in the work_dir is best) or a bare name'
    )
    parser.add_argument('checkpoint', help="iter_*.pth of the work_dir; 'none' writes the base weights as they are")
    parser.add_argument('out', help='the directory to make')
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


def run(args: argparse.Namespace) -> None:
    """Convert, and say what came out."""
    from mmft.cli.configs import load_config
    from mmft.export import convert

    made = convert(
        load_config(args.config, args.cfg_options),
        None if args.checkpoint == 'none' else args.checkpoint,
        args.out,
        layout=args.layout,
        adapter=args.adapter,
        dtype=args.dtype,
        max_shard_size=args.max_shard_size,
        check=args.check,
        force=args.force,
        log=print,
    )
    times = ', '.join(f'{name} {seconds:.1f} s' for name, seconds in made.seconds.items())
    print(f'{made.path}: {len(made.files)} files, {made.nbytes / 1e9:.2f} GB ({times})')
    for name, value in made.measured.items():
        print(f'  {name}: {value:.3g}')
