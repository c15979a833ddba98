"""Turn the FoodieQA release into chat annotations, train.jsonl and val.jsonl, that ChatDataset reads.

FoodieQA (Li et al., EMNLP 2024, arXiv:2406.11030) asks multiple-choice questions about regional Chinese food.
Ask for access at huggingface.co/datasets/lyan62/FoodieQA, unpack FoodieQA.zip and name the folder that holds

    sivqa_tidy.json   single: one picture, a question, choices (Chinese and English)
    mivqa_tidy.json   multi: four pictures, which of them is asked for (Chinese and English)
    textqa_tidy.json  text: a question without a picture (Chinese)
    images/           the pictures that the files name

From the first file comes a fourth task, name: a picture, and the name of its dish (Chinese).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmft.cli.converters.common import add_common, convert_and_show, share

TASKS = ('single', 'multi', 'text', 'name')

TERMS = """
FoodieQA's terms of use (on its dataset card; licence CC BY-NC-ND 4.0) allow research and evaluation, and exclude
training models on it. Read them before you train on train.jsonl; `--val 1` writes everything for evaluation.
Never pass the data on."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    add_common(parser, seed='the split')
    parser.add_argument('source', type=Path, help='folder of the unpacked release')
    parser.add_argument('out', type=Path, nargs='?', help='where to write (default: into the folder of the release)')
    parser.add_argument('--task', nargs='+', choices=TASKS, default=TASKS, help='what to write (default: all)')
    parser.add_argument('--language', choices=('zh', 'en', 'both'), default='zh', help='default: zh')
    parser.add_argument(
        '--answer',
        choices=('letter', 'text', 'both'),
        default='letter',
        help='the answer to a choice: B, its text, or "B. text" (default: letter; always letters for multi)',
    )
    parser.add_argument(
        '--val',
        type=share,
        default=0.1,
        help='share of each task held out (default: 0.1); no dish and no picture is in both parts: a question about '
        'pictures of both is left out',
    )


def run(args: argparse.Namespace) -> int:
    """Convert, and print the report."""

    def work() -> Mapping[str, Any]:
        from mmft.data.convert.foodieqa import convert

        languages = ('zh', 'en') if args.language == 'both' else (args.language,)
        return convert(args.source, args.out, args.task, languages, args.answer, args.val, args.seed, args.on_error)

    def warn(report: Mapping[str, Any]) -> None:
        if 'train' in report['files']:
            print(TERMS, file=sys.stderr)

    return convert_and_show(work, warn)
