"""The encoder of a model directory: its tokenizer, its chat template, and what its pictures become."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmft.checkpoint.build import build_meta
from mmft.checkpoint.directory_template import check_stored, directory_template
from mmft.data.encoder import ChatEncoder
from mmft.data.stored_encoder import stored_background
from mmft.data.text.tokenizers import has_tokenizer, load_tokenizer
from mmft.errors import CheckpointError
from mmft.file_names import ENCODER_FILE, PROCESSOR_FILES
from mmft.files.directory import ModelDirectory
from mmft.files.reading import reading
from mmft.json_files import read_json
from mmft.layouts import Layout, layout_in
from mmft.registry import ENCODERS

__all__ = ['encoder_config', 'encoder_places', 'load_encoder', 'tokenizer_directory']


def tokenizer_directory(pretrained: str | Path | Mapping[str, Any] | None, base: str | Path | None = None) -> str:
    """The directory whose tokenizer belongs to ``pretrained`` of a config, perhaps an adapter's base; '' if none.

    Args:
        base: as in ``load``.
    """
    found = pretrained.get('llm') if isinstance(pretrained, Mapping) else pretrained
    if not found or not Path(found).is_dir():
        return str(found or '')
    with suppress(CheckpointError):  # of a base that is not there: reading the weights reports it
        return str(next(filter(has_tokenizer, encoder_places(ModelDirectory(found, base))), found))
    return str(found)


def encoder_places(directory: ModelDirectory) -> list[Path]:
    """Where a directory's tokenizer may be: in it, or in the base that its weights build on."""
    return [directory.path, *([directory.base_directory.path] if directory.base_directory else [])]


def encoder_config(layout: Layout, directory: Path) -> dict[str, Any]:
    """The ``encoder`` dict that a directory's files describe."""
    with reading(f'{directory}: one of its preprocessor files'):
        return layout.encoder_config(directory)


def load_encoder(
    directory: str | Path | ModelDirectory,
    tokens_per_tile: int | None = None,
    layout: Layout | None = None,
    template: Any = None,
) -> ChatEncoder | None:
    """The encoder of a directory, or of the base that it builds on; None where neither holds a tokenizer.

    As an mmft export keeps it (``encoder.json``), else from the directory's own files. One rule for all commands: a
    directory's own tokenizer comes first, then its base's.

    Args:
        tokens_per_tile: None asks the model that the layout describes.
        template: as in ``load``.
    """
    if not isinstance(directory, ModelDirectory):
        directory = ModelDirectory(directory)
    place = next(filter(has_tokenizer, encoder_places(directory)), None)
    if place is None:
        return None
    # An adapter may bring a tokenizer and nothing that says what pictures and prompts become: its base does.
    own = any((place / name).is_file() for name in (ENCODER_FILE, *PROCESSOR_FILES))
    settings = place if own else directory.described if place == directory.path else place
    if (settings / ENCODER_FILE).is_file():
        encoder = ChatEncoder.from_pretrained(settings, **({} if template is None else {'template': template}))
        if template is None:
            check_stored(encoder, settings)
        return encoder
    layout, tokenizer = layout or layout_in(directory), load_tokenizer(place)
    config = encoder_config(layout, settings)
    if template is None:
        template = directory_template(config['template'], tokenizer, place, layout.chat_templates)
    if tokens_per_tile is None:
        model = build_meta(layout.model_config)
        side = config['image_processor'].get('tile_size', model.vision.image_size)
        tokens_per_tile = model.num_image_tokens(side)
    background = stored_background(lambda name: read_json(settings / name, optional=True))
    more = {'template': template, 'tokenizer': tokenizer, 'tokens_per_tile': tokens_per_tile, 'background': background}
    return ENCODERS.build({**config, **more})
