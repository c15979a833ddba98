"""``mmft list-cfg [PATTERN]``: the configs that there are, each with the first line of what it says about itself."""

from __future__ import annotations

import argparse
import ast
import fnmatch
from pathlib import Path

__all__ = ['add_arguments', 'run', 'summary']


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``list-cfg``."""
    parser.add_argument('pattern', nargs='?', default='*', help="part of a name, or with wildcards: 'internvl2_2b*'")


def summary(file: Path) -> str:
    """The first line of a config's docstring; the file is read, not run."""
    return (ast.get_docstring(ast.parse(file.read_text(encoding='utf-8'))) or '').partition('\n')[0]


def run(args: argparse.Namespace) -> int:
    """Print the list; the status is 1 where nothing matches."""
    from mmft.cli.configs import list_configs

    pattern = args.pattern if set(args.pattern) & set('*?[') else f'*{args.pattern}*'
    found = {name: file for name, file in list_configs().items() if fnmatch.fnmatch(name, pattern)}
    width = max(map(len, found), default=0)
    for name in sorted(found):
        print(f'{name:<{width}}  {summary(found[name])}')
    return 0 if found else 1
