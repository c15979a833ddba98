"""Configs on the command line: found by path or bare name, changed with ``--cfg-options``, never silently."""

from __future__ import annotations

import re
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmft.cli.foreign import foreign_config
from mmft.cli.options import apply_options
from mmft.errors import ConfigError
from mmft.words import near_names, suggested

if TYPE_CHECKING:
    from mmengine.config import Config

__all__ = ['apply_options', 'config_folders', 'find_config', 'list_configs', 'load_config']

# What mmengine says of it.
_MISSING_BASE = re.compile(r'(?P<file>\S.*?\.py) not found! .*`with read_base\(\): = from (?P<module>\S+) import', re.S)


def config_folders() -> list[Path]:
    """Where bare names are looked up: ``./configs``, those of the checkout, those installed with the package."""
    package = Path(__file__).resolve().parents[1]
    folders = [Path.cwd() / 'configs', package.parent / 'configs', package / 'configs']
    seen: dict[Path, Path] = {}
    for folder in folders:
        if folder.is_dir():
            seen.setdefault(folder.resolve(), folder)
    return list(seen.values())


def list_configs() -> dict[str, Path]:
    """Every config by its bare name."""
    found: dict[str, Path] = {}
    for folder in config_folders():
        for file in sorted(folder.rglob('*.py')):
            if '_base_' not in file.parts and not file.name.startswith('_'):
                found.setdefault(file.stem, file)
    return found


def find_config(name: str) -> Path:
    """A config by path, or by bare name with or without ``.py``.

    Raises:
        ConfigError: there is none; names the nearest.
    """
    path = Path(name)
    if path.is_file():
        return path
    known = list_configs()
    if path.stem in known and len(path.parts) == 1:
        return known[path.stem]
    raise ConfigError(
        f'no config {name!r}',
        expected=f'a file, or a name from {", ".join(map(str, config_folders())) or "a folder ./configs"}',
        fix=suggested(near_names(path.stem, known, 3, 0.4), '`mmft list-cfg` lists them', str),
    )


def load_config(name: str, options: Sequence[str] | None = None) -> Config:
    """Read a config, apply ``--cfg-options`` and import the code that it names (``mmft/user_code.py``).

    Args:
        name: path or bare name.
        options: ``key=value`` strings.

    Raises:
        ConfigError: not found, not valid Python, an import that fails, or an option that names nothing in it.
    """
    from mmengine.config import Config

    from mmft.engine.compat import find_bases_without_pkg_resources
    from mmft.user_code import resolve_code

    path = find_config(name)
    if foreign := foreign_config(path):
        raise foreign
    find_bases_without_pkg_resources()
    try:
        cfg = Config.fromfile(path, import_custom_modules=False)
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:  # a config is Python: it can fail in any way
        raise _unreadable(path, error) from error
    apply_options(cfg, options)
    return resolve_code(cfg)


def _unreadable(path: Path, error: BaseException) -> ConfigError:
    """What is wrong with a config that cannot be read, and what to do about it."""
    from mmft.user_code import how_to_import

    text = str(error)
    if isinstance(error, ImportError):
        return ConfigError(f'{path}: {text}', fix=how_to_import(text))
    if base := _MISSING_BASE.match(text):
        return ConfigError(
            f'{path}: no base {base["file"]}, which `from {base["module"]} import ...` names',
            expected='relative bases beside the config (a dot is its folder, another its parent), or those of mmft: '
            'from mmft.configs._base_.runtime import *',
            fix='keep the config in the folder of its bases; `mmft copy-cfg NAME DIR` writes one that needs no base',
        )
    if type(error) is RuntimeError and not text:  # all that mmengine says
        text = 'a call of something that the config imports, such as Path(...); configs hold values only'
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    place = f'{path}:{lines[-1]}' if lines else path
    return ConfigError(f'{place}: {type(error).__name__}: {text}', fix='fix the config')
