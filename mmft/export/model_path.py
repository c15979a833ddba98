"""What a model may be, wherever a command, or ``open_answerer``, takes one: docs/chat_and_compare.md has the table.

A path is looked at, not opened: whether a directory is complete shows only when it is read.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from mmft.disk import is_lfs_pointer, lfs_pointer
from mmft.errors import CheckpointError
from mmft.words import clipped, printable

__all__ = ['Target', 'find_checkpoint', 'find_target', 'is_url', 'run_checkpoint', 'stored_config']

Target: TypeAlias = 'str | os.PathLike | tuple[Any, str | os.PathLike]'
"""A model directory, a checkpoint, the folder of a training, the URL of a server, or (config, checkpoint)."""


def find_target(target: Target, log: Callable[[str], None] | None = None) -> Target:
    """A target as a model directory, a URL, or (config, checkpoint).

    Args:
        log: called with the checkpoint of a training's folder that is taken; None: standard error.

    Raises:
        CheckpointError: the path is none of these; says what it is, and what to do.
    """
    if isinstance(target, tuple):
        return target[0], find_checkpoint(target[1], log)
    if is_url(target):
        return target
    from mmft.files.path_errors import not_a_model  # torch comes with it, which no server's client needs

    path = Path(target).expanduser()
    is_folder = os.path.isdir(path)  # false, too, for names that no file can have
    if is_folder and run_checkpoint(path) is None:
        return path
    if not is_folder and path.suffix != '.pth':
        raise not_a_model(path)
    checkpoint = find_checkpoint(path, log)
    return stored_config(checkpoint), checkpoint


def find_checkpoint(path: str | os.PathLike, log: Callable[[str], None] | None = None) -> Path:
    """A checkpoint by its path, or the one of a training's folder: the best where there is one, else the last.

    Raises:
        CheckpointError: there is none.
    """
    from mmft.files.foreign_checkpoints import foreign_training
    from mmft.files.path_errors import not_a_model, not_one_run

    path = Path(path).expanduser()
    if os.path.isdir(path):
        if (found := run_checkpoint(path)) is None:
            nothing = CheckpointError(
                f'no checkpoint in {path}', expected='best.pth, or iter_N.pth', fix='check the path'
            )
            raise foreign_training(path) or not_one_run(path) or nothing
        (log or _say)(f'{path}: taking {found.name}, the {"best" if found.name == "best.pth" else "last"} checkpoint')
        return found
    if not os.path.exists(path):
        raise not_a_model(path)
    if is_lfs_pointer(path):
        raise lfs_pointer(path)
    return path


def run_checkpoint(folder: Path) -> Path | None:
    """The checkpoint that the folder of a training stands for; None where it is no such folder."""
    from mmft.engine.run_folder import find_last

    if any((folder / name).exists() for name in ('config.json', 'adapter_config.json')):
        return None
    best = folder / 'best.pth'
    return best if best.is_file() else find_last(folder)


def stored_config(checkpoint: Path) -> dict[str, Any]:
    """The config that a checkpoint was trained with, as far as an export needs it.

    Raises:
        CheckpointError: no checkpoint of mmft, one that does not say its model, or one of a model with parts of other
            code than mmft's that the user has not allowed.
    """
    from mmft.export.inputs import TrainingCheckpoint
    from mmft.user_code import require_code

    meta = TrainingCheckpoint.read(checkpoint).meta
    require_code(meta.get('code'), checkpoint)
    stored = meta['config']
    config = {name: stored[name] for name in ('model', 'pretrained', 'encoder', 'dtype') if name in stored}
    if config.get('pretrained') is None and meta.get('base'):
        config['pretrained'] = meta['base']['path']
    if wrong := [name for name, value in config.items() if not _is_setting(name, value)]:
        shown = ', '.join(f'{name} = {clipped(repr(config[name]))}' for name in wrong)
        raise CheckpointError(
            f'{checkpoint}: the config in it says {shown}',
            expected='the config of a training',
            fix=f'name a config of yours: CONFIG {checkpoint}, or --config CONFIG',
        )
    if not config.get('model') and not config.get('pretrained'):
        raise CheckpointError(
            f'{checkpoint} does not say which model it was trained with',
            expected='the config of its training inside it',
            fix=f'name the config too: CONFIG {checkpoint}, or --config CONFIG',
        )
    return config


def _is_setting(name: str, value: Any) -> bool:
    """Whether a setting is of its kind: a dict, a dtype's name, a directory, or those of parts (of towers, lists)."""
    if value is None or name in ('model', 'encoder'):
        return value is None or isinstance(value, Mapping)
    if name == 'dtype' or not isinstance(value, Mapping):
        return isinstance(value, str)
    places = [place for part in value.values() for place in (part if isinstance(part, (list, tuple)) else [part])]
    return all(isinstance(text, str) for text in [*value, *(place for place in places if place is not None)])


def is_url(target: Any) -> bool:
    """Whether this is the address of a server.

    >>> is_url('http://127.0.0.1:23333/v1'), is_url('exported/food')
    (True, False)
    """
    return isinstance(target, str) and re.match(r'https?://', target, re.IGNORECASE) is not None


def _say(line: str) -> None:
    print(printable(line), file=sys.stderr, flush=True)  # standard output is for answers
