"""The models that a command line names: one word each, or two, ``CONFIG CKPT``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

__all__ = ['MODEL', 'grouped', 'named_target']

MODEL = (
    'a model directory, an adapter, a checkpoint (iter_N.pth), the folder of a training (its best checkpoint, else its '
    'last)'
)
"""What a model may be, for ``--help``."""


def grouped(words: Sequence[str]) -> list[list[str]]:
    """The words of each model: a config and what follows it belong together.

    >>> grouped(['food.py', 'work_dirs/food/iter_4.pth', 'exported/base'])
    [['food.py', 'work_dirs/food/iter_4.pth'], ['exported/base']]
    """
    groups: list[list[str]] = []
    for word in words:
        if groups and len(groups[-1]) == 1 and _is_config(groups[-1][0]):
            groups[-1].append(word)
        else:
            groups.append([word])
    return groups


def _is_config(word: str) -> bool:
    if word.endswith('.py'):
        return True
    from mmft.cli.configs import list_configs

    return word in list_configs() and not os.path.exists(word)


def named_target(words: Sequence[str], args: argparse.Namespace, config: str | None = None) -> Any:
    """What ``open_answerer`` takes, for the words of one model.

    Args:
        args: ``cfg_options`` change the config of a checkpoint, the one that is stored in it too.
        config: as ``--config`` names it.

    Raises:
        ConfigError: a config without a checkpoint, or options that change nothing.
        CheckpointError: as ``find_target``.
    """
    from mmengine.config import Config

    from mmft.cli.configs import load_config
    from mmft.cli.options import apply_options
    from mmft.errors import ConfigError
    from mmft.export.model_path import find_target

    if len(words) == 1 and _is_config(words[0]):
        raise ConfigError(
            f'{words[0]} is a config, not a model', expected='CONFIG CKPT', fix='name a checkpoint of its training too'
        )
    if len(words) == 2:
        return find_target((load_config(words[0], args.cfg_options), words[1]))
    target = find_target(words[0])
    if not isinstance(target, tuple):
        return target if isinstance(target, str) else str(target)
    if config is not None:
        return load_config(config, args.cfg_options), target[1]
    stored = Config(target[0])
    apply_options(stored, args.cfg_options)
    return stored.to_dict(), target[1]  # a Config would count as the user's own, whose code may run
