"""Turn CODA-LM into chat annotations, train.jsonl and val.jsonl, that ChatDataset reads.

In one folder: val/images and test/images of CODA2022, and CODA-LM/ with Train/ and Val/ (Test/, Mini/).

    mmft data codalm data/coda --draw                        all three tasks
    mmft data codalm data/coda --task regional --split Train
    mmft data codalm data/coda --annotations CODA-LM-chinese --language zh
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmft.cli.converters.common import add_common, convert_and_show

SPLITS, TASKS = ('Train', 'Val', 'Test', 'Mini'), ('general', 'regional', 'suggestion')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    add_common(parser)
    parser.add_argument('root', type=Path, help='the folder with val/, test/ and CODA-LM/')
    parser.add_argument('out', type=Path, nargs='?', help='where to write (default: into the annotation folder)')
    parser.add_argument('--split', nargs='+', choices=SPLITS, default=('Train', 'Val'), help='default: Train Val')
    parser.add_argument('--task', nargs='+', choices=TASKS, default=TASKS, help='default: all')
    parser.add_argument('--annotations', default='CODA-LM', help='the annotation folder (default: CODA-LM)')
    parser.add_argument(
        '--language', choices=('en', 'zh'), default='en', help="of the questions; en are the benchmark's (default)"
    )
    parser.add_argument('--draw', action='store_true', help='draw the boxes of regions where there is no such picture')


def run(args: argparse.Namespace) -> int:
    """Convert, and print the report."""

    def work() -> Mapping[str, Any]:
        from mmft.data.convert.codalm import convert

        return convert(
            args.root, args.out, args.split, args.task, args.annotations, args.language, args.draw, args.on_error
        )

    return convert_and_show(work)
