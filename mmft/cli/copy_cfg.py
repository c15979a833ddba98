"""``mmft copy-cfg NAME DIR``: a config of the library as a file of your own, to change."""

from __future__ import annotations

import argparse
from pathlib import Path

__all__ = ['add_arguments', 'copy_config', 'run']


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``copy-cfg``."""
    parser.add_argument('config', help='the bare name of a config, see `mmft list-cfg`')
    parser.add_argument('out', type=Path, help='a folder, or the new file')
    parser.add_argument('--force', action='store_true', help='replace the file if it exists')


def copy_config(name: str, out: Path, force: bool = False) -> Path:
    """Write a config with its bases included, so that the copy works anywhere.

    Args:
        name: bare name or path.
        out: a folder, or a ``.py`` file.
        force: replace a file.

    Returns:
        The file.

    Raises:
        ConfigError: no such config, or the file exists.
    """
    from mmft.cli.configs import find_config, load_config
    from mmft.cli.list_cfg import summary
    from mmft.engine.config_text import config_text
    from mmft.errors import ConfigError

    source = find_config(name)
    target = out if out.suffix == '.py' else out / source.name
    if target.exists() and not force:
        raise ConfigError(f'{target} exists', fix='name another file, or pass --force')
    target.parent.mkdir(parents=True, exist_ok=True)
    text = f'"""{summary(source)}\n\nA copy of {source.stem}, bases included.\n"""\n\n'
    target.write_text(text + config_text(load_config(str(source))), encoding='utf-8')
    return target


def run(args: argparse.Namespace) -> None:
    """Copy, and say what to do with it."""
    target = copy_config(args.config, args.out, args.force)
    print(f'wrote {target}\ntrain it with: mmft train {target}')
