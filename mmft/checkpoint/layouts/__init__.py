"""Layouts of model directories. ``LAYOUTS`` maps what ``config.json`` says to the class that reads and writes it."""

from __future__ import annotations

from typing import Any

from mmft.checkpoint.layouts.base import Layout, Rule, Step
from mmft.checkpoint.layouts.internvl_hf import InternVLHF
from mmft.checkpoint.layouts.internvl_official import InternVLOfficial
from mmft.errors import CheckpointError

__all__ = ['LAYOUTS', 'LAYOUT_NAMES', 'InternVLHF', 'InternVLOfficial', 'Layout', 'Rule', 'Step', 'layout_of']

LAYOUTS: dict[str, type[Layout]] = {cls.architecture: cls for cls in (InternVLHF, InternVLOfficial)}
LAYOUT_NAMES: dict[str, type[Layout]] = {'hf': InternVLHF, 'official': InternVLOfficial}
"""The names of ``--layout``."""


def layout_of(config: dict[str, Any], where: str) -> Layout:
    """The layout that ``config`` (a ``config.json``) declares in ``architectures``."""
    names = config.get('architectures') or []
    for name in names:
        if name in LAYOUTS:
            try:
                return LAYOUTS[name].from_config(config)
            except KeyError as error:
                raise CheckpointError(
                    f'{where}: config.json of {name} has no {error}',
                    expected='the config.json that was published with the weights',
                    fix='download it again',
                ) from error
    raise CheckpointError(
        f'{where}: config.json has architectures = {names}',
        expected=f'one of {sorted(LAYOUTS)}',
        fix='this directory holds another kind of model; mmft reads the ones above',
    )
