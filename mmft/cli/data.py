"""``mmft data NAME ...``: turns published data sets and folders of pictures into annotation files, and checks them."""

from __future__ import annotations

import argparse
import importlib

__all__ = ['CONVERTERS', 'add_arguments', 'run']

CONVERTERS = {
    'folder': ('mmft.cli.converters.folder', 'a folder of pictures for each class'),
    'okvqa': ('mmft.cli.converters.okvqa', 'OK-VQA'),
    'coco_captions': ('mmft.cli.converters.coco_captions', 'COCO captions'),
    'llava_mix': ('mmft.cli.converters.mixes', "LLaVA-1.5's files: 558k and mix665k"),
    'sharegpt4v': ('mmft.cli.converters.mixes', "ShareGPT4V's files: captions and mix"),
    'codalm': ('mmft.cli.converters.codalm', 'CODA-LM'),
    'foodieqa': ('mmft.cli.converters.foodieqa', 'FoodieQA, for evaluation'),
    'check': ('mmft.cli.check_data', 'check data: the same as mmft check-data'),
}
"""Name -> (module, one line of help). A module is as those of ``mmft.cli.main``; its docstring is the help."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A parser for each name."""
    names = parser.add_subparsers(dest='converter', metavar='NAME', required=True)
    for name, (module, help_text) in CONVERTERS.items():
        source = importlib.import_module(module)
        sub = names.add_parser(
            name, help=help_text, description=source.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        source.add_arguments(sub)
        sub.add_argument('--traceback', action='store_true', default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Convert, or check."""
    return importlib.import_module(CONVERTERS[args.converter][0]).run(args)
