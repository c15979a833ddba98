"""``mmft.load``: a model directory in, ``(VLM, ChatEncoder)`` out. Nothing that lies in the directory is executed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from mmft.checkpoint.build import as_device, as_dtype, build_meta
from mmft.checkpoint.encoder import load_encoder
from mmft.checkpoint.fill import fill
from mmft.checkpoint.parts import read_parts
from mmft.checkpoint.silent_settings import check_same
from mmft.errors import ConfigError
from mmft.files.directory import ModelDirectory
from mmft.files.reading import reading
from mmft.files.tensors import TensorSource, fingerprint, main_dtype
from mmft.layouts import Layout, NameTable, layout_in
from mmft.user_code import allow_code as allow_modules

if TYPE_CHECKING:
    from mmft.data.encoder import ChatEncoder
    from mmft.models import VLM

__all__ = ['Pretrained', 'build_opened', 'build_pretrained', 'load', 'open_pretrained', 'read_layout']


class Pretrained(NamedTuple):
    """Weights to start from, not read yet.

    Attributes:
        layout: their names, and the model they are of.
        tensors: under the names of ``layout``.
        where: for messages.
    """

    layout: NameTable
    tensors: TensorSource
    where: str


def read_layout(path: str | Path) -> Layout:
    """The layout of a model directory, known by its ``config.json`` and, where that says too little, its tensors."""
    return layout_in(ModelDirectory(path))


def open_pretrained(
    pretrained: str | Path | Mapping[str, Any],
    model_config: Mapping[str, Any] | None = None,
    base: str | Path | None = None,
    vision: str | Path | None = None,
) -> Pretrained:
    """``pretrained`` of a config: a model directory, or a dict of one for each part.

    Args:
        model_config: the ``model`` dict it must be; a dict of parts needs it.
        base: as in ``load``.
        vision: as in ``load``.

    Raises:
        CheckpointError: a directory that cannot be read.
        ConfigError: ``model_config`` describes another model.
    """
    if isinstance(pretrained, Mapping):
        named = {part: place for part, place in pretrained.items() if place is not None}
        where = ', '.join(f'{part}: {place}' for part, place in named.items())
        if model_config is None:
            raise ConfigError(f'pretrained = {where}', expected='the `model` dict that joins the parts')
        layout, tensors = read_parts(named, model_config)
    else:
        where, directory = str(pretrained), ModelDirectory(pretrained, base, vision)
        layout = layout_in(directory)
        tensors = layout.open(directory)
    if model_config is not None:
        check_same(model_config, layout.model_config, where)
    return Pretrained(layout, tensors, where)


def build_opened(
    opened: Pretrained,
    model_config: Mapping[str, Any] | None = None,
    dtype: str | torch.dtype | None = 'auto',
    device: str | torch.device = 'cpu',
) -> tuple[VLM, set[str]]:
    """A model with the weights of ``open_pretrained``; the names of those that no file held: randomly initialised."""
    config = model_config or opened.layout.model_config
    with nullcontext() if model_config else reading(f'{opened.where}: the model that its config.json describes'):
        model = build_meta(config)
    kind = as_dtype(dtype) or main_dtype(opened.tensors)
    initialised = fill(model, config, opened.layout, opened.tensors, kind, as_device(device), opened.where)
    return model, initialised


def build_pretrained(
    path: str | Path | Mapping[str, Any],
    model_config: Mapping[str, Any] | None = None,
    dtype: str | torch.dtype | None = 'auto',
    device: str | torch.device = 'cpu',
) -> tuple[VLM, str]:
    """A model with the weights of a directory, or of one directory for each part.

    Args:
        model_config: the ``model`` dict it must be; None takes the directory's own.
        dtype: of all weights; ``auto`` is the stored one (``main_dtype``).

    Returns:
        The model and the fingerprint of the weights.

    Raises:
        CheckpointError: tensors missing, left over or of other shapes; all are listed.
        ConfigError: ``model_config`` describes another model than the directory.
    """
    opened = open_pretrained(path, model_config)
    model, _ = build_opened(opened, model_config, dtype, device)
    return model, fingerprint(opened.tensors)


def load(
    path: str | Path | Mapping[str, Any],
    dtype: str | torch.dtype = 'auto',
    device: str | torch.device = 'cpu',
    base: str | Path | None = None,
    vision: str | Path | None = None,
    model: Mapping[str, Any] | None = None,
    allow_code: str | Sequence[str] = (),
    template: str | Mapping[str, Any] | None = None,
) -> tuple[VLM, ChatEncoder | None]:
    """Read a model directory: InternVL2, LLaVA, TinyLLaVA, llava-hf, an export of mmft, or a LoRA adapter over one.

    Args:
        path: the directory; its layout is known by ``config.json`` and the names of its tensors, never by its own name.
            Or a dict with a directory or file for each part, such as BLIP-2's Q-Former as ``projector``, as a config's
            ``pretrained``; parts that it leaves out are randomly initialised.
        dtype: of all weights; ``auto`` is the stored one, of a mix that of the language model.
        base: of an adapter's directory: what it was trained on, where that is not at the place that the adapter names;
            of LLaVA's first stage (``config.json`` and ``mm_projector.bin``): its language model.
        vision: the vision tower of a directory whose weights hold none, where it is not at the place that it names;
            of a MoF: the second tower's, of which the ``config.json`` is enough.
        model: the ``model`` dict that joins the parts of a dict; of a directory, what it must hold.
        allow_code: modules of your own, such as ``'mypackage.towers'``, that a directory may ask for (its ``code``):
            they are imported. No other code runs.
        template: the chat template, as a config's ``encoder.template``; None: the one that the directory's own files
            lead to (``encoder.json``, its chat template in Jinja, what its kind of model is trained with).

    Returns:
        The model in eval mode, and its encoder (None for a dict, and where the directory holds no tokenizer).

    Raises:
        CheckpointError: the directory cannot be read; says what is missing, or which code it asks for.
        ConfigError: no such ``dtype`` or ``device``, or a module of ``allow_code`` that cannot be imported.
    """
    allow_modules(allow_code)
    if template is not None and isinstance(path, Mapping):
        raise ConfigError(
            f'template={template!r} for a dict of parts, which has no encoder',
            fix='build one: mmft.data.ChatEncoder(tokenizer, template, ...)',
        )
    opened = open_pretrained(path, model, base, vision)
    built, _ = build_opened(opened, model, dtype, device)
    if isinstance(path, Mapping):
        return built.eval(), None
    encoder = load_encoder(ModelDirectory(path, base, vision), None, opened.layout, template)
    built.take_image_token(encoder)
    return built.eval(), encoder
