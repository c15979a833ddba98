"""What a directory format is: how it is recognised, read and written, and what it cannot hold.

A published format is one file beside this one, with one subclass of ``Layout``, and one line in ``__init__.py``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmft.backends import Support, unsupported
from mmft.errors import ConfigError
from mmft.json_files import write_json
from mmft.layouts.rules import NameTable
from mmft.layouts.small_files import Contents, generation_config, llm_ids, write_encoder

if TYPE_CHECKING:
    from mmft.data.encoder import ChatEncoder
    from mmft.files.directory import ModelDirectory
    from mmft.files.tensors import TensorSource
    from mmft.layouts.adjust import Adjustment

__all__ = ['Layout', 'refuse']


class Layout(NameTable):
    """A directory format: the names of its tensors (``rules``), its ``config.json`` and the small files.

    ``architecture`` is ``architectures[0]`` of ``config.json``: a directory is recognised by it, never by its path.
    """

    option: str
    """Of ``--layout``: ``hf``, ``official`` or ``native``."""

    llm_section: str = 'text_config'
    """Where ``config.json`` describes the language model."""

    readers: str = 'mmft and its own programs read'
    """Who reads a directory that no backend serves."""

    unties: bool = False
    """Tied tensors are written under each of their names: the format's configuration class unties them."""

    chat_templates: tuple[str, ...] = ()
    """Files of directories whose chat template is the one that the model was trained with, and not merely that of its
    language model (of ``mmft.file_names.TEMPLATE_FILES``)."""

    def __init__(self, model: dict[str, Any], options: dict[str, Any] | None = None) -> None:
        """
        Args:
            model: the ``model`` dict of mmft.
            options: ``config.json``; empty for a layout that is to be written.
        """
        self._model, self.options = model, options or {}

    @property
    def model_config(self) -> dict[str, Any]:
        return self._model

    # reading

    @classmethod
    def matches(cls, config: dict[str, Any]) -> bool:
        """Whether ``config`` (a ``config.json``) is one of this layout."""
        named = config.get('architectures')
        return isinstance(named, list) and cls.architecture in named

    @classmethod
    @abstractmethod
    def from_config(cls, config: dict[str, Any], directory: ModelDirectory | None = None) -> Layout:
        """The layout of a directory with this ``config.json``.

        Args:
            directory: the directory itself, for layouts whose ``config.json`` does not say everything.
        """

    def open(self, directory: ModelDirectory) -> TensorSource:
        """The tensors of a directory of this layout, under the names that ``rules`` have on their side."""
        return directory.tensors

    @abstractmethod
    def encoder_config(self, directory: Path) -> dict[str, Any]:
        """The ``encoder`` dict of mmft for this directory."""

    # serving

    @classmethod
    def support(cls) -> list[Support]:
        """Which backends serve directories of this layout; the first row that fits one holds. By default none does."""
        return [unsupported(cls.option, cls.architecture, cls.readers)]

    @classmethod
    def limited_support(cls, row: Support, config: Mapping[str, Any]) -> Support:
        """A row of ``support`` with what the settings of a directory's ``config.json`` change."""
        return row

    # writing

    @classmethod
    @abstractmethod
    def from_model(cls, model_config: dict[str, Any]) -> Layout:
        """The layout as it would be written for a model, or a ``ConfigError`` that says why it cannot hold it."""

    def check(self, contents: Contents) -> None:
        """Raise ``ConfigError`` for what the format's own programs cannot do as model and encoder do it."""

    def adjustments(self, contents: Contents) -> dict[str, Adjustment]:
        """Tensors, by mmft's names, that must be changed to fit the format's classes."""
        return {}

    @abstractmethod
    def config_json(self, contents: Contents) -> dict[str, Any]:
        """``config.json``."""

    def small_files(self, contents: Contents, config: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """The format's other JSON files, by their names.

        Args:
            config: its ``config.json``.
        """
        return {}

    def special_tokens(self, encoder: ChatEncoder) -> dict[str, str]:
        """Names under which the format's processor looks up tokens of its own."""
        return {}

    def picture(self, encoder: ChatEncoder) -> str:
        """What stands for a picture in the chat template."""
        return encoder.image_start + encoder.image_token + encoder.image_end

    def write_files(self, directory: Path, contents: Contents) -> None:
        """Write everything but the weights into a directory."""
        config, encoder = self.config_json(contents), contents.encoder
        ids = llm_ids(contents.model.llm.lm.config.to_dict(), encoder)
        files = {'config.json': config, 'generation_config.json': generation_config(ids, encoder)}
        for name, content in (files | self.small_files(contents, config)).items():
            write_json(directory / name, content)
        if encoder is not None:
            write_encoder(directory, encoder, self.special_tokens(encoder), self.picture(encoder))


def refuse(layout: str, problems: list[str], fix: str = '') -> None:
    """Raise ``ConfigError`` with every reason why ``layout`` cannot hold a model, if there is one."""
    if problems:
        raise ConfigError.gather([f'{layout} cannot hold {problem}{fix}' for problem in problems])
