"""``mmft list-cfg [PATTERN]``: the configs that there are, each with the first line of what it says about itself."""

from __future__ import annotations

import argparse
import ast
import fnmatch
from pathlib import Path

from mmft.words import near_names, suggested

__all__ = ['add_arguments', 'run', 'summary']


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``list-cfg``."""
    parser.add_argument('pattern', nargs='?', default='*', help="part of a name, or with wildcards: 'internvl2_2b*'")


def summary(file: Path) -> str:
    """The first line of a config's docstring; the file is read, not run."""
    return (ast.get_docstring(ast.parse(file.read_text(encoding='utf-8'))) or '').partition('\n')[0]


def run(args: argparse.Namespace) -> int:
    """Print the list.

    Raises:
        ConfigError: nothing matches; names the nearest.
    """
    from mmft.cli.configs import list_configs
    from mmft.errors import ConfigError

    pattern = args.pattern if set(args.pattern) & set('*?[') else f'*{args.pattern}*'
    known = list_configs()
    found = {name: file for name, file in known.items() if fnmatch.fnmatch(name, pattern)}
    if not found:
        near = near_names(args.pattern.strip('*'), known, 3, 0.4)
        raise ConfigError(
            f'no config matches {args.pattern!r}',
            expected="part of a name, or a pattern such as 'internvl2_2b*'",
            fix=suggested(near, '`mmft list-cfg` alone lists all', str),
        )
    width = max(map(len, found))
    for name in sorted(found):
        print(f'{name:<{width}}  {summary(found[name])}')
    return 0
