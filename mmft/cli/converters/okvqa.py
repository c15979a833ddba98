"""Turn OK-VQA into chat annotations, train.jsonl and val.jsonl, that ChatDataset reads.

From okvqa.allenai.org, unzipped in one folder, and the pictures of COCO 2014 (or 2017) in another:

    OpenEnded_mscoco_train2014_questions.json    mscoco_train2014_annotations.json
    OpenEnded_mscoco_val2014_questions.json      mscoco_val2014_annotations.json

    mmft data okvqa data/okvqa data/coco --type other --answers most_common
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmft.cli.converters.common import add_common, convert_and_show

ANSWERS = ('most_common', 'all', 'every', 'weighted')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    add_common(parser, seed='the answers that `weighted` chooses')
    parser.add_argument('source', type=Path, help='folder with the question and annotation files')
    parser.add_argument('images', type=Path, help='the COCO folder, with train2014/ and val2014/ (or 2017)')
    parser.add_argument('out', type=Path, nargs='?', help='where to write (default: into the source folder)')
    parser.add_argument('--split', nargs='+', choices=('train', 'val'), default=('train', 'val'), help='default: both')
    parser.add_argument(
        '--type', nargs='+', default=(), metavar='TYPE', help="only these: other, one ... ten, or 'Cooking and Food'"
    )
    parser.add_argument(
        '--answers',
        choices=ANSWERS,
        default='most_common',
        help='of the ten: the most common (default); all: each different one a record; every: each of the ten a '
        'record; weighted: one at random, by how many gave it. Validation always takes the most common',
    )
    parser.add_argument('--min-votes', type=int, default=1, metavar='N', help='leave out answers that fewer gave')
    parser.add_argument(
        '--field',
        choices=('answer', 'raw_answer'),
        default='answer',
        help='answer: normalised, as it is scored (default); raw_answer: as it was written',
    )
    parser.add_argument('--suffix', help="line after each question (default: LLaVA's for short answers; '' for none)")
    parser.add_argument(
        '--merge', action='store_true', help="a picture's questions in one training conversation, as in LLaVA's mix"
    )


def run(args: argparse.Namespace) -> int:
    """Convert, and print the report."""

    def work() -> Mapping[str, Any]:
        from mmft.data.convert.okvqa import SHORT_ANSWER, convert

        return convert(
            args.source,
            args.images,
            args.out,
            args.split,
            args.type,
            args.answers,
            args.min_votes,
            args.field,
            SHORT_ANSWER if args.suffix is None else args.suffix,
            args.merge,
            args.seed,
            args.on_error,
        )

    return convert_and_show(work)
