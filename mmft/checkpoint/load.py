"""``mmft.load``: a model directory in, ``(VLM, ChatEncoder)`` out. Nothing that lies in the directory is executed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmft.checkpoint.layouts import Layout, layout_of
from mmft.checkpoint.source import TensorDirectory, fingerprint, read_json
from mmft.errors import CheckpointError, ConfigError
from mmft.registry import ENCODERS, LANGUAGE_MODELS, MODELS, PROJECTORS, VISION_TOWERS

if TYPE_CHECKING:
    from mmft.data.encoder import ChatEncoder
    from mmft.models import VLM

__all__ = ['as_dtype', 'build_meta', 'build_pretrained', 'check_same', 'load', 'load_encoder', 'read_layout']

MANIFEST = 'encoder.json'
"""Written by ``ChatEncoder.save_pretrained`` into our exports: the encoder as it was in training."""

TOKENIZER_FILES = ('tokenizer.json', 'tokenizer.model', 'vocab.json')


def as_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """``'bfloat16'`` -> ``torch.bfloat16``; ``'auto'`` and None -> None."""
    if isinstance(dtype, torch.dtype) or dtype in (None, 'auto'):
        return None if dtype == 'auto' else dtype
    value = getattr(torch, str(dtype).removeprefix('torch.'), None)
    if not isinstance(value, torch.dtype) or not value.is_floating_point:
        raise ConfigError(f'dtype {dtype!r}', expected="'auto', 'float32', 'bfloat16' or 'float16'")
    return value


def read_layout(path: str | Path) -> Layout:
    """The layout of a model directory, told by its ``config.json``."""
    directory = Path(path)
    if not directory.is_dir():
        raise CheckpointError(
            f'{directory} is not a directory',
            expected='a model directory with config.json and weights',
            fix='check the path',
        )
    return layout_of(read_json(directory / 'config.json'), str(directory))


def build_meta(model_config: Mapping[str, Any]) -> VLM:
    """The model on the meta device: every shape, no memory."""
    with torch.device('meta'):
        return MODELS.build(dict(model_config))


def build_pretrained(
    path: str | Path,
    model_config: Mapping[str, Any] | None = None,
    dtype: str | torch.dtype | None = 'auto',
    device: str | torch.device = 'cpu',
) -> tuple[VLM, str]:
    """A model with the weights of a directory.

    Args:
        model_config: the ``model`` dict it must be; None takes the directory's own.
        dtype: of all weights; ``auto`` keeps what is stored.

    Returns:
        The model and the fingerprint of the directory's weights.

    Raises:
        CheckpointError: tensors missing, left over or of other shapes; all are listed.
        ConfigError: ``model_config`` describes another model than the directory.
    """
    layout = read_layout(path)
    if model_config is not None:
        check_same(model_config, layout.model_config, str(path))
    tensors = TensorDirectory(path)
    model = build_meta(model_config or layout.model_config)
    fill(model, layout, tensors, as_dtype(dtype), torch.device(device), str(path))
    return model, fingerprint(tensors)


def fill(
    model: VLM, layout: Layout, tensors: TensorDirectory, dtype: torch.dtype | None, device: torch.device, where: str
) -> None:
    """Put a directory's tensors into a meta model, one at a time."""
    slots = dict(model.named_parameters(remove_duplicate=False))
    first = {id(parameter): name for name, parameter in model.named_parameters()}
    tied = {name: first[id(parameter)] for name, parameter in slots.items() if first[id(parameter)] != name}
    problems: list[str] = []
    filled: set[str] = set()
    twins: dict[str, Tensor] = {}
    for step in layout.to_ours(tensors):
        for name, value in step(tensors.__getitem__).items():
            if name not in slots:
                problems.append(f'{name}: in the weights, but not in the model')
            elif tuple(value.shape) != tuple(slots[name].shape):
                problems.append(f'{name}: {tuple(value.shape)} in the weights, {tuple(slots[name].shape)} in the model')
            elif name in tied:
                twins[name] = value
            else:
                _assign(model, name, value.to(device=device, dtype=dtype or value.dtype))
            filled.add(name)
    problems += [f'{name}: in the model, but not in the weights' for name in slots if name not in filled | set(tied)]
    problems += [
        f'{name}: other values than {tied[name]} in the weights, but the config ties them (tie_word_embeddings)'
        for name, value in twins.items()
        if tied[name] in filled and not _equal(value, model.get_parameter(tied[name]))
    ]
    if problems:
        shown = '\n  '.join(problems[:20]) + (f'\n  ... and {len(problems) - 20} more' if len(problems) > 20 else '')
        raise CheckpointError(f'{where} does not fit the model:\n  {shown}', fix='check the model config and the path')
    model.llm.reset_buffers()
    if tied:
        model.llm.lm.tie_weights()
    model.to(device)


def _equal(value: Tensor, parameter: Tensor) -> bool:
    return torch.equal(value.to(device=parameter.device, dtype=parameter.dtype), parameter)


def _assign(model: torch.nn.Module, name: str, value: Tensor) -> None:
    owner, _, leaf = name.rpartition('.')
    setattr(model.get_submodule(owner), leaf, torch.nn.Parameter(value, requires_grad=True))


# Where weights do not show a difference: a head count, a rope base, a select layer. Everything else shows in shapes.
_SILENT = {
    'vision': ('num_attention_heads', 'norm_type', 'layer_norm_eps', 'select_layer', 'patch_size', 'qk_normalization'),
    'projector': ('scale', 'version'),
    'llm': ('num_attention_heads', 'num_key_value_heads', 'rope_theta', 'rope_scaling', 'rms_norm_eps', 'hidden_act'),
}


def _settings(part: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The ``_SILENT`` settings of a part, with the defaults of its class for what its config leaves out."""
    kind = {'vision': VISION_TOWERS, 'projector': PROJECTORS, 'llm': LANGUAGE_MODELS}[part].get(config['type'])
    if kind is None:
        return dict(config)
    if not hasattr(kind, 'hf_config'):
        defaults = {name: parameter.default for name, parameter in inspect.signature(kind).parameters.items()}
        return {**defaults, **config}
    fields = {key: value for key, value in config.items() if key not in ('type', 'attn_implementation')}
    resolved = kind.hf_config(fields)
    rope = dict(resolved.rope_parameters)
    own = {key: getattr(resolved, key) for key in _SILENT['llm'] if not key.startswith('rope_')}
    return {**own, 'rope_theta': rope.get('rope_theta'), 'rope_scaling': rope}


def _comparable(value: Any) -> Any:
    """A rope scaling as names and numbers: transformers' spellings of the same thing are equal."""
    if not isinstance(value, Mapping):
        return value
    kind = value.get('rope_type', value.get('type'))
    numbers = {key: value[key] for key in ('factor', 'short_factor', 'long_factor') if value.get(key) is not None}
    return {'type': 'longrope' if kind == 'su' else kind, **numbers}


def check_same(config: Mapping[str, Any], stored: Mapping[str, Any], where: str) -> None:
    """Raise ``ConfigError`` where a ``model`` dict differs from a directory's in what tensor shapes do not show."""
    problems = []
    for part, keys in _SILENT.items():
        own, theirs = _settings(part, config[part]), _settings(part, stored[part])
        problems += [
            f'model.{part}.{key} = {own[key]!r}, but {where} says {theirs[key]!r}'
            for key in keys
            if key in own and key in theirs and _comparable(own[key]) != _comparable(theirs[key])
        ]
    if problems:
        raise ConfigError.gather(problems)


def load_encoder(path: str | Path, tokens_per_tile: int, layout: Layout | None = None) -> ChatEncoder | None:
    """The encoder of a directory: as an mmft export keeps it, else from ``config.json``; None without a tokenizer."""
    directory = Path(path)
    if not any((directory / name).is_file() for name in TOKENIZER_FILES):
        return None
    from mmft.data import ChatEncoder

    if (directory / MANIFEST).is_file():
        return ChatEncoder.from_pretrained(directory)
    layout = layout or read_layout(directory)
    config = {**layout.encoder_config(directory), 'tokenizer': str(directory), 'tokens_per_tile': tokens_per_tile}
    return ENCODERS.build(config)


def load(
    path: str | Path, dtype: str | torch.dtype = 'auto', device: str | torch.device = 'cpu'
) -> tuple[VLM, ChatEncoder | None]:
    """Read a model directory: OpenGVLab's InternVL2, HF-native InternVL, or an export of mmft.

    Args:
        path: the directory; its layout is told by ``config.json``, never by its name.
        dtype: ``auto`` keeps what is stored.

    Returns:
        The model in eval mode, and its encoder (None where the directory holds no tokenizer).

    Raises:
        CheckpointError: the directory cannot be read; says what is missing.
    """
    model, _ = build_pretrained(path, dtype=dtype, device=device)
    encoder = load_encoder(path, model.num_image_tokens(_tile_size(path, model)))
    if encoder is not None and model.image_token_id is None:
        model.image_token_id = encoder.image_token_id
    return model.eval(), encoder


def _tile_size(path: str | Path, model: VLM) -> int:
    tiler: Callable[..., Any] | dict = read_layout(path).encoder_config(Path(path))['image_processor']
    return tiler.get('tile_size', model.vision.image_size)
