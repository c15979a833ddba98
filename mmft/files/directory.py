"""A model directory as layouts see it: its ``config.json``, its tensors, and other directories that it names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from mmft.errors import CheckpointError
from mmft.file_names import ADAPTER_CONFIG, PROCESSOR_FILES
from mmft.files.partial import check_not_quantised, folder_tensors, has_folders, over_base, projector_alone
from mmft.files.path_errors import not_a_model
from mmft.files.peft_adapter import merged_adapter
from mmft.files.reading import reading
from mmft.files.tensor_names import unwrapped_tensors
from mmft.files.tensors import TensorDirectory, TensorSource
from mmft.json_files import read_json
from mmft.words import clipped

__all__ = ['ModelDirectory']


class ModelDirectory:
    """One directory.

    Args:
        path: where it is.
        base: of a LoRA directory: the directory it was trained on, where the one it names is elsewhere now; of LLaVA's
            first stage: the language model's, which nothing there names.
        vision: the vision tower's directory, where the weights hold none and the one they name is elsewhere now.

    Raises:
        CheckpointError: ``path`` is no directory.
    """

    def __init__(self, path: str | Path, base: str | Path | None = None, vision: str | Path | None = None) -> None:
        self.path, self.base, self.vision = Path(path), base, vision
        if not os.path.isdir(self.path):  # false, too, for names that no file can have
            raise not_a_model(self.path)

    @cached_property
    def config(self) -> dict[str, Any]:
        """``config.json``; of an adapter's directory that has none, its base's."""
        file = self.described / 'config.json'
        if not file.exists():
            raise not_a_model(self.path)
        return read_json(file)

    @property
    def is_adapter(self) -> bool:
        """Whether it holds a LoRA adapter over other weights."""
        return (self.path / ADAPTER_CONFIG).is_file()

    @cached_property
    def base_directory(self) -> ModelDirectory | None:
        """The directory that this one's weights build on; None where they are whole.

        Raises:
            CheckpointError: it is not where the adapter says.
        """
        if self.is_adapter and not has_folders(self.path):
            with reading(f'{self.path / ADAPTER_CONFIG}'):
                return self._adapter_base()
        if projector_alone(self.path) and self.base is not None:
            return ModelDirectory(self.base, vision=self.vision)
        return None

    def _adapter_base(self) -> ModelDirectory:
        """The directory that this adapter was trained on.

        Raises:
            CheckpointError: it is not where the adapter says, or is an adapter itself.
        """
        name = read_json(self.path / ADAPTER_CONFIG).get('base_model_name_or_path')
        if (not name or not isinstance(name, str)) and self.base is None:
            raise CheckpointError(
                f'{self.path / ADAPTER_CONFIG}: base_model_name_or_path is {clipped(repr(name))}',
                expected='the model that the adapter was trained on',
                fix='pass its directory: mmft.load(path, base=...), --base on the command line',
            )
        path = self.find(
            str(name),
            self.base,
            'the base it was trained on',
            'put the base beside it under this name, or pass its directory: mmft.load(path, base=...), --base on the '
            'command line',
        )
        base = ModelDirectory(path, vision=self.vision)
        if base.is_adapter:
            raise CheckpointError(
                f'{self.path} is an adapter over {path}, which is an adapter too',
                expected='whole weights as the base',
                fix='write that one out first: mmft pth_to_hf with pretrained set to it, and none as the checkpoint',
            )
        return base

    @property
    def described(self) -> Path:
        """Where the small files lie that describe the model: here, or where an adapter brings none, in its base."""
        if (self.path / 'config.json').is_file() or not self.is_adapter or self.base_directory is None:
            return self.path
        return self.base_directory.path

    @cached_property
    def tensors(self) -> TensorSource:
        """Its tensors, without a training's wrappers around their names; an adapter's base with the adapter merged in.

        Raises:
            CheckpointError: they cannot be read, or are quantised.
        """
        if self.is_adapter:
            with reading(f'{self.path / ADAPTER_CONFIG}'):
                below, config = self.base_directory, self.json('config.json')
                if below is None:
                    return merged_adapter(self.path, config, folder_tensors(self.path), self.path)
                return merged_adapter(self.path, config, below.tensors, below.path)
        if has_folders(self.path):
            return folder_tensors(self.path)
        if projector_alone(self.path):
            return over_base(self.path, self.base_directory and self.base_directory.tensors)
        tensors = unwrapped_tensors(TensorDirectory(self.path), self.path)
        check_not_quantised(tensors, self.json('config.json').get('quantization_config'), self.path)
        return tensors

    def json(self, name: str) -> dict[str, Any]:
        """A JSON file of the directory, else of the base that it is an adapter for; empty where there is none."""
        if (self.path / name).is_file():
            return read_json(self.path / name)
        return self.base_directory.json(name) if self.is_adapter and self.base_directory is not None else {}

    @property
    def image_processor(self) -> dict[str, Any]:
        """Settings of transformers' image processor: inside ``processor_config.json``, or in a file of their own."""
        outer, own = map(self.json, PROCESSOR_FILES)
        return outer.get('image_processor') or own

    def find(self, name: str, given: str | Path | None, what: str, fix: str) -> Path:
        """The directory that a config names: as given, as a path, inside this directory, beside it, in ``pretrained/``.

        Args:
            name: a path, or a hub's ``owner/name``.
            given: what the caller says instead.
            what: for the error.
            fix: for the error.

        Raises:
            CheckpointError: lists where it was looked for.
        """
        if given is not None:
            places = [Path(given)]
        else:
            last = Path(name).name
            near = [self.path / last, self.path.parent / last, self.path.parent / name]
            places = [Path(name), *near, Path('pretrained') / last]
        for place in places:
            if os.path.isfile(place / 'config.json') and place.resolve() != self.path.resolve():
                return place
        looked = ', '.join(dict.fromkeys(clipped(place, 300) for place in places))
        raise CheckpointError(f'{self.path} needs {what} {clipped(repr(name))}; there is no model in {looked}', fix=fix)


def first_key(config: Mapping[str, Any], *names: str) -> Any:
    """The value of the first of ``names`` that ``config`` has and that is not None."""
    return next((config[name] for name in names if config.get(name) is not None), None)
