"""Turn a folder per class into chat annotations, train.jsonl and val.jsonl, that ChatDataset reads.

data/boxes/OK/*.jpg  data/boxes/NG/*.jpg       or divided:  data/boxes/train/OK/...  data/boxes/val/OK/...

mmft data folder data/boxes --names OK=合格 NG=不合格 --wording zh-inspection
mmft data folder data/boxes --group 'box(\\d+)_'       pictures of one box stay together
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmft.cli.converters.common import add_common, convert_and_show, share
from mmft.errors import ConfigError

WORDINGS = ('en', 'zh', 'en-inspection', 'zh-inspection')


def _pair(text: str) -> tuple[str, str]:
    folder, sign, name = text.partition('=')
    if not (folder and sign and name):
        raise argparse.ArgumentTypeError(f'{text!r}: expected FOLDER=NAME')
    return folder, name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    add_common(parser, seed='the split and the choice of wordings')
    parser.add_argument('source', type=Path, help='the folder of the class folders')
    parser.add_argument('out', type=Path, nargs='?', help='where to write (default: into the source)')
    parser.add_argument('--classes', nargs='+', default=(), help='the class folders there must be, and no others')
    parser.add_argument(
        '--names', nargs='+', type=_pair, default=(), metavar='FOLDER=NAME', help='what a class is called in the text'
    )
    parser.add_argument(
        '--wording',
        nargs='+',
        default=['en'],
        metavar='WORDING',
        help=f'{", ".join(WORDINGS)}, or a JSON file with questions and answers; several: a record each (default: en)',
    )
    parser.add_argument('--val', type=share, default=0.1, help='share of each class that is held out (default: 0.1)')
    parser.add_argument('--group', metavar='REGEX', help='pictures whose paths agree in its (...) are not divided')


def run(args: argparse.Namespace) -> int:
    """Convert, and print the report."""

    def work() -> Mapping[str, Any]:
        from mmft.data.convert.folder import WORDINGS, convert, read_wording

        if unknown := [name for name in args.wording if name not in WORDINGS and not Path(name).is_file()]:
            raise ConfigError(
                f'--wording {unknown[0]}: neither a wording of this name nor such a file',
                expected=f'one of {", ".join(WORDINGS)}, or a JSON file with questions and answers',
                fix='correct the name; docs/data.md shows such a file',
            )
        wordings = [WORDINGS[name] if name in WORDINGS else read_wording(Path(name)) for name in args.wording]
        return convert(
            args.source,
            args.out,
            args.classes,
            dict(args.names),
            wordings,
            args.val,
            args.group,
            args.seed,
            args.on_error,
        )

    return convert_and_show(work)
