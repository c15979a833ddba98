"""What ``--layout`` means for a model: the names of its tensors, and the module that writes the files around them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from mmft.errors import ConfigError
from mmft.export import internvl_hf, internvl_official, llava_hf, llava_official, native, tinyllava
from mmft.export.files import Contents
from mmft.layouts import (
    LAYOUT_NAMES,
    InternVLHF,
    InternVLOfficial,
    Layout,
    LlavaHF,
    LlavaNextHF,
    LlavaOfficial,
    NameTable,
    Native,
    TinyLlava,
    layout_for,
)
from mmft.layouts.adjust import Fit

__all__ = ['FAMILIES', 'Family', 'choose_target']


class Family(Protocol):
    """What a module of one target family offers. A new family is one module and one line in ``FAMILIES``."""

    UNTIE: bool
    """Write tied tensors under each of their names: the family's configuration class unties them."""

    def check(self, contents: Contents) -> None:
        """Raise ``ConfigError`` for what the family's own code cannot do as model and encoder do it."""

    def fits(self, contents: Contents) -> dict[str, Fit]:
        """Tensors, by mmft's names, that must be changed to fit the family's classes."""

    def model_config(self, contents: Contents) -> dict[str, Any]:
        """``config.json``."""

    def write_files(self, directory: Path, contents: Contents) -> None:
        """Everything but the weights."""


FAMILIES: dict[type[Layout], Family] = {
    InternVLHF: internvl_hf,
    InternVLOfficial: internvl_official,
    LlavaHF: llava_hf,
    LlavaNextHF: llava_hf,
    LlavaOfficial: llava_official,
    TinyLlava: tinyllava,
    Native: native,
}


def choose_target(name: str, model_config: Mapping[str, Any], base: NameTable | None = None) -> tuple[Layout, Family]:
    """The layout of a name of ``--layout`` that holds this model.

    Args:
        base: the layout that training began with: where the name stands for it too, it is kept.

    Raises:
        ConfigError: no such name, or the model fits into none of that name's layouts: with all reasons.
    """
    layout = None
    if type(base) in LAYOUT_NAMES.get(name, ()):
        with suppress(ConfigError):
            layout = type(base).from_model(dict(model_config))
    layout = layout or layout_for(name, model_config)
    return layout, FAMILIES[type(layout)]
