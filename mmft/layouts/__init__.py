"""Layouts of model directories: how each is recognised by its ``config.json``, and which of them holds a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmft.errors import CheckpointError, ConfigError
from mmft.files.directory import ModelDirectory
from mmft.files.foreign_checkpoints import xtuner_folders
from mmft.files.reading import reading
from mmft.layouts.base import Layout
from mmft.layouts.internvl_hf import InternVLHF
from mmft.layouts.internvl_official import InternVLOfficial
from mmft.layouts.llava_hf import LlavaHF
from mmft.layouts.llava_next_hf import LlavaNextHF
from mmft.layouts.llava_official import LlavaOfficial
from mmft.layouts.llava_onevision_hf import LlavaOnevisionHF
from mmft.layouts.native import Native
from mmft.layouts.rules import NameTable, Rule, Step
from mmft.layouts.small_files import Contents
from mmft.layouts.tinyllava import TinyLlava
from mmft.words import clipped

__all__ = [
    'LAYOUTS', 'LAYOUT_NAMES', 'Contents', 'InternVLHF', 'InternVLOfficial', 'Layout', 'LlavaHF', 'LlavaNextHF',
    'LlavaOfficial', 'LlavaOnevisionHF', 'NameTable', 'Native', 'Rule', 'Step', 'TinyLlava', 'layout_for', 'layout_in',
    'layout_of', 'matches_any',
]  # fmt: skip

_FORMATS: tuple[type[Layout], ...] = (
    InternVLHF, InternVLOfficial, LlavaHF, LlavaNextHF, LlavaOnevisionHF, LlavaOfficial, TinyLlava, Native,
)  # fmt: skip

LAYOUTS: dict[str, type[Layout]] = {cls.architecture: cls for cls in _FORMATS}
"""Every layout by the name of its architecture."""

LAYOUT_NAMES: dict[str, tuple[type[Layout], ...]] = {
    name: tuple(cls for cls in _FORMATS if cls.option == name) for name in ('hf', 'official', 'native')
}
"""The names of ``--layout``, and the layouts that each stands for; the first that can hold a model is taken."""


def layout_for(name: str, model_config: Mapping[str, Any], base: NameTable | None = None) -> Layout:
    """The layout of that name that can hold a model.

    Args:
        name: of ``LAYOUT_NAMES``.
        base: that of the directory that training began with: where the name stands for it too, it is kept.

    Raises:
        ConfigError: why each of them cannot.
    """
    if name not in LAYOUT_NAMES:
        raise ConfigError(f'layout {name!r}', expected=f'one of {list(LAYOUT_NAMES)}')
    problems: list[str] = []
    for kind in sorted(LAYOUT_NAMES[name], key=lambda kind: kind is not type(base)):
        try:
            return kind.from_model(dict(model_config))
        except ConfigError as error:
            problems.append(f'{kind.architecture}: {error}')
    reasons = '\n'.join(problems)
    raise ConfigError(
        f'no layout of --layout {name} can hold this model:\n{reasons}',
        fix='--layout native holds every model' if name != 'native' else '',
    )


def layout_in(directory: ModelDirectory) -> Layout:
    """The layout of a directory."""
    return layout_of(directory.config, str(directory.path), directory)


def matches_any(config: dict[str, Any]) -> bool:
    """Whether ``config`` (a ``config.json``) is that of a whole model."""
    return any(kind.matches(config) for kind in LAYOUTS.values())


def layout_of(config: dict[str, Any], where: str, directory: ModelDirectory | None = None) -> Layout:
    """The layout that ``config`` (a ``config.json``) declares.

    Args:
        directory: the directory itself, where there is one.
    """
    named = config.get('architectures') or []
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        raise CheckpointError(
            f'{where}: config.json has architectures = {clipped(repr(named))}',
            expected='a list with the name of a class',
        )
    for name, kind in LAYOUTS.items():
        if kind.matches(config):
            with reading(f'{where}: config.json of {name}'):
                return kind.from_config(config, directory)
    if directory is not None and (foreign := xtuner_folders(directory.path)) is not None:
        raise foreign
    raise CheckpointError(
        f'{where}: config.json has architectures = {config.get("architectures") or []}',
        expected=f'one of {sorted(LAYOUTS)}',
        fix='mmft reads the models above; a directory of one part (a tower, a Q-Former or projector, a language model) '
        'goes into a dict, pretrained=dict(vision=..., projector=..., llm=...) or mmft.load(dict(...), model=...)',
    )
