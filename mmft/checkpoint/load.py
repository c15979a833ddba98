"""``mmft.load``: a model directory in, ``(VLM, ChatEncoder)`` out. Nothing that lies in the directory is executed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from mmft.checkpoint.fill import fill
from mmft.checkpoint.parts import read_parts
from mmft.checkpoint.silent_settings import check_same
from mmft.errors import CheckpointError, ConfigError, MMFTError, first_line
from mmft.files.directory import ModelDirectory
from mmft.files.reading import reading
from mmft.files.tensors import TensorSource, fingerprint, main_dtype, read_json
from mmft.layouts import Layout, NameTable, layout_of
from mmft.own_code import allow_code as allow_modules
from mmft.registry import ENCODERS, MODELS
from mmft.words import clipped

if TYPE_CHECKING:
    from mmft.data.encoder import ChatEncoder
    from mmft.models import VLM

__all__ = ['Pretrained', 'as_device', 'as_dtype', 'build_meta', 'build_opened', 'build_pretrained', 'check_same',
           'encoder_config', 'encoder_places', 'has_tokenizer', 'load', 'load_encoder', 'open_pretrained',
           'read_layout', 'tokenizer_directory']  # fmt: skip

MANIFEST = 'encoder.json'
"""Written by ``ChatEncoder.save_pretrained`` into our exports: the encoder as it was in training."""

PICTURE_FILES = ('processor_config.json', 'preprocessor_config.json')

TOKENIZER_FILES = ('tokenizer.json', 'tokenizer.model', 'vocab.json')


MOST_LAYERS = 2_000

_REPEATED = {'depth', 'layers', 'n_layers', 'num_experts', 'num_hidden_layers', 'num_layers', 'num_local_experts'}


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


def as_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """``'bfloat16'`` -> ``torch.bfloat16``; ``'auto'`` and None -> None, which ``main_dtype`` decides."""
    if isinstance(dtype, torch.dtype) or dtype in (None, 'auto'):
        return None if dtype == 'auto' else dtype
    value = getattr(torch, str(dtype).removeprefix('torch.'), None)
    if value not in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        raise ConfigError(f'dtype {dtype!r}', expected="'auto', 'float32', 'bfloat16' or 'float16'")
    return value


def as_device(device: str | torch.device) -> torch.device:
    """``'cuda:0'`` -> the device.

    Raises:
        ConfigError: no such device, or not in this machine.
    """
    try:
        made = torch.device(device)
    except RuntimeError:
        raise ConfigError(f'device {device!r}', expected="'cpu', 'cuda', 'cuda:1' or the like") from None
    if made.type == 'cuda' and (made.index or 0) >= torch.cuda.device_count():
        found = f'{torch.cuda.device_count()} CUDA devices that torch sees here'
        raise ConfigError(
            f'device {device!r}', expected=f'one of the {found}', fix="pass device='cpu', or see nvidia-smi"
        )
    try:
        torch.empty(0, device=made)
    except (AssertionError, NotImplementedError, RuntimeError) as error:  # a kind that this torch has no code for
        raise ConfigError(f'device {device!r}: {first_line(error)}', fix="pass device='cpu'") from error
    return made


def read_layout(path: str | Path) -> Layout:
    """The layout of a model directory, known by its ``config.json`` and, where that says too little, its tensors."""
    return _layout(ModelDirectory(path))


def _layout(directory: ModelDirectory) -> Layout:
    return layout_of(directory.config, str(directory.path), directory)


def build_meta(model_config: Mapping[str, Any]) -> VLM:
    """The model on the meta device: every shape, no memory.

    Raises:
        ConfigError: a part that cannot be, or is larger than any: a number with some zeros too many.
    """
    if deep := [*_too_deep(model_config, 'model')]:
        raise ConfigError(
            ', '.join(deep), expected=f'at most {MOST_LAYERS:,} of them',
            fix='correct the number in the config; of a model directory download its JSON files again',
        )  # fmt: skip
    try:
        with torch.device('meta'):
            return MODELS.build(dict(model_config))
    except RuntimeError as error:  # torch, of sizes whose product no tensor can have
        if isinstance(error, MMFTError):
            raise
        raise ConfigError(
            f'the model cannot be built: {first_line(error)}', expected='sizes that a model can have',
            fix='correct the sizes in the config; of a model directory download its JSON files again',
        ) from error  # fmt: skip


def _too_deep(config: Any, where: str) -> Iterator[str]:
    """Numbers of layers or experts that would take minutes and all memory, even without weights."""
    for key, value in config.items() if isinstance(config, Mapping) else ():
        if isinstance(value, int) and value > MOST_LAYERS and key in _REPEATED:
            yield f'{where}.{key} = {clipped(value)}'
        yield from _too_deep(value, f'{where}.{key}')


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
        layout = _layout(directory)
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
    drawn = fill(model, config, opened.layout, opened.tensors, kind, as_device(device), opened.where)
    return model, drawn


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


def tokenizer_directory(pretrained: str | Path | Mapping[str, Any] | None, base: str | Path | None = None) -> str:
    """The directory whose tokenizer belongs to ``pretrained`` of a config, perhaps an adapter's base; '' if none.

    Args:
        base: as in ``load``.
    """
    found = pretrained.get('llm') if isinstance(pretrained, Mapping) else pretrained
    if not found or not Path(found).is_dir():
        return str(found or '')
    with suppress(CheckpointError):  # of a base that is not there: whoever reads the weights says it
        return str(next(filter(has_tokenizer, encoder_places(ModelDirectory(found, base))), found))
    return str(found)


def has_tokenizer(path: str | Path) -> bool:
    """Whether a directory holds a tokenizer."""
    return any(os.path.isfile(os.path.join(path, name)) for name in TOKENIZER_FILES)


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
    from mmft.checkpoint.own_template import check_kept, own_template
    from mmft.data import ChatEncoder, load_tokenizer
    from mmft.data.kept_encoder import stored_background

    # An adapter may bring a tokenizer and nothing that says what pictures and prompts become: its base does.
    own = any((place / name).is_file() for name in (MANIFEST, *PICTURE_FILES))
    settings = place if own else directory.described if place == directory.path else place
    if (settings / MANIFEST).is_file():
        encoder = ChatEncoder.from_pretrained(settings, **({} if template is None else {'template': template}))
        if template is None:
            check_kept(encoder, settings)
        return encoder
    layout, tokenizer = layout or _layout(directory), load_tokenizer(place)
    config = encoder_config(layout, settings)
    if template is None:
        template = own_template(config['template'], tokenizer, place, layout.chat_templates)
    if tokens_per_tile is None:
        model = build_meta(layout.model_config)
        side = config['image_processor'].get('tile_size', model.vision.image_size)
        tokens_per_tile = model.num_image_tokens(side)
    background = stored_background(lambda name: read_json(file) if (file := settings / name).is_file() else {})
    more = {'template': template, 'tokenizer': tokenizer, 'tokens_per_tile': tokens_per_tile, 'background': background}
    return ENCODERS.build({**config, **more})


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
    if encoder is not None and built.image_token_id is None:
        built.image_token_id = encoder.image_token_id
    return built.eval(), encoder
