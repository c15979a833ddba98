"""Turn COCO captions into chat annotations, train.jsonl and val.jsonl, that ChatDataset reads.

    mmft data coco_captions data/coco                      annotations/captions_{train,val}2017.json
    mmft data coco_captions data/coco --year 2014
    mmft data coco_captions data/coco --karpathy data/coco/dataset_coco.json

The pictures lie in data/coco/train2017/ and so on (cocodataset.org).
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmft.cli.converters.common import add_common, convert_and_show


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    add_common(parser, seed='the choice of wordings and of `random` captions')
    parser.add_argument('source', type=Path, help='the COCO folder')
    parser.add_argument('out', type=Path, nargs='?', help='where to write (default: SOURCE/captions)')
    parser.add_argument('--year', default='2017', choices=('2014', '2017'), help='default: 2017')
    parser.add_argument('--karpathy', type=Path, metavar='FILE', help='dataset_coco.json, for train, val and test')
    parser.add_argument('--split', nargs='+', choices=('train', 'val', 'test'), help='default: all that the files have')
    parser.add_argument(
        '--captions',
        choices=('all', 'first', 'longest', 'random'),
        default='all',
        help="which of a training picture's captions (default: all, a record each)",
    )
    parser.add_argument('--language', choices=('en', 'zh'), default='en', help='of the questions (default: en)')
    parser.add_argument('--prompt', nargs='+', metavar='TEXT', help='your own questions to choose from')
    parser.set_defaults(refuse=parser.error)


def run(args: argparse.Namespace) -> int:
    """Convert, and print the report."""
    splits = args.split or (('train', 'val', 'test') if args.karpathy else ('train', 'val'))
    if not args.karpathy and 'test' in splits:
        args.refuse('COCO publishes no captions of its test pictures; --karpathy FILE has a test part')

    def work() -> Mapping[str, Any]:
        from mmft.data.convert.coco_captions import PROMPTS, convert

        own = args.source / 'annotations'
        files = {split: args.karpathy or own / f'captions_{split}{args.year}.json' for split in splits}
        return convert(
            files,
            args.source,
            args.out or args.source / 'captions',
            args.captions,
            args.prompt or PROMPTS[args.language],
            args.seed,
            args.on_error,
        )

    return convert_and_show(work)
