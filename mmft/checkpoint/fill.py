"""Tensors of a directory into a model that has none yet."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmft.checkpoint.idle import idle_and_absent
from mmft.errors import CheckpointError
from mmft.files.tensors import TensorSource
from mmft.layouts import NameTable
from mmft.models.buffers import is_buffer, tensors_of
from mmft.models.tuning import part_of
from mmft.models.vlm import VLM
from mmft.registry import LANGUAGE_MODELS, MERGES, PROJECTORS, VISION_TOWERS
from mmft.words import count_of

__all__ = ['assign', 'fill']

logger = logging.getLogger(__name__)


def fill(
    model: VLM,
    model_config: Mapping[str, Any],
    layout: NameTable,
    tensors: TensorSource,
    dtype: torch.dtype | None,
    device: torch.device,
    where: Any,
) -> set[str]:
    """Put tensors into a meta model, one at a time.

    Args:
        model_config: from which ``model`` was built: what no file holds is initialised as it says.
        where: the directory, for errors.

    Returns:
        The names of tensors that were randomly initialised.

    Raises:
        CheckpointError: tensors missing, left over or of other shapes; all are listed.
    """
    slots = tensors_of(model, remove_duplicate=False)
    first = {id(parameter): name for name, parameter in model.named_parameters()}
    tied = {name: own for name, slot in slots.items() if (own := first.get(id(slot), name)) != name}
    problems: list[str] = []
    filled: set[str] = set()
    twins: dict[str, Tensor] = {}
    kind = dtype
    for step in layout.to_ours(tensors):
        for name, value in step(tensors.__getitem__).items():
            if name not in slots:
                if not layout.may_be_random(name):
                    problems.append(f'{name}: in the weights, but not in the model')
                continue
            if tuple(value.shape) != tuple(slots[name].shape):
                if layout.may_be_random(name):  # such as BLIP-2's map to a language model of another width
                    logger.info(f'{name}: {tuple(value.shape)} in {where}, {tuple(slots[name].shape)} here: left out')
                    continue
                problems.append(f'{name}: {tuple(value.shape)} in the weights, {tuple(slots[name].shape)} in the model')
            elif slots[name].is_floating_point() and not value.is_floating_point():
                problems.append(f'{name}: whole numbers ({value.dtype}) in the weights')
            elif name in tied:
                twins[name] = value
            else:
                kind = kind or (value.dtype if value.is_floating_point() else None)
                assign(model, name, value.to(device=device, dtype=_kind(model, name, value, dtype)))
            filled.add(name)
    missing = [name for name in slots if name not in filled | set(tied)]
    zero = {name for name in missing if layout.may_be_absent(name)}
    unread = (name for name in missing if name not in zero and not layout.may_be_random(name))
    if idle := idle_and_absent(layout, unread):
        logger.info(f'not in {where}, and never run, so zero: {count_of(len(idle), "tensor")}, such as {min(idle)}')
    zero |= idle
    initialised = {name for name in missing if layout.may_be_random(name)} - zero
    problems += [
        f'{name}: in the model, but not in the weights{_why(name)}'
        for name in missing
        if name not in zero | initialised
    ]
    problems += [
        f'{name}: other values than {tied[name]} in the weights, but the config ties them (tie_word_embeddings)'
        for name, value in twins.items()
        if tied[name] in filled and not _equal(value, model.get_parameter(tied[name]))
    ]
    _refuse(problems, where)
    for name in zero:
        slot = slots[name]
        value = torch.zeros(slot.shape, dtype=kind if slot.is_floating_point() else slot.dtype, device=device)
        assign(model, name, value)
    _initialise(model, model_config, initialised, kind, device)
    _compute_buffers(model, model_config)
    if tied:
        model.llm.lm.tie_weights()
    model.to(device)
    return initialised


def _refuse(problems: Sequence[str], where: Any) -> None:
    if problems:
        shown = '\n  '.join(problems[:20]) + (f'\n  ... and {len(problems) - 20} more' if len(problems) > 20 else '')
        raise CheckpointError(f'{where} does not fit the model:\n  {shown}', fix='check the model config and the path')


def _why(name: str) -> str:
    if name != 'llm.lm.lm_head.weight':
        return ''
    return '. If the head is the embedding, say so: tie_word_embeddings=True in model.llm, or true in config.json'


def _initialise(
    model: VLM, model_config: Mapping[str, Any], names: Iterable[str], dtype: torch.dtype | None, device: torch.device
) -> None:
    """Give tensors the values that a new model of the config would have."""
    fresh: dict[str, nn.Module] = {}
    for name in sorted(names):
        part, _, rest = name.partition('.')
        if part not in fresh:
            fresh[part] = _new_part(model, model_config, part)
        value = tensors_of(fresh[part])[rest].data
        assign(model, name, value.to(device=device, dtype=_kind(model, name, value, dtype)))
    if fresh:
        logger.info(f'randomly initialised: {", ".join(sorted({part_of(name) for name in names}))}')


def _kind(model: VLM, name: str, value: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    """The dtype that a tensor gets; counts (``num_batches_tracked``) stay whole numbers."""
    counts = not value.is_floating_point() and is_buffer(model, name)
    return value.dtype if dtype is None or counts else dtype


def _compute_buffers(model: VLM, model_config: Mapping[str, Any]) -> None:
    """Buffers that no file holds: recomputed by the part itself, the others as a new part has them."""
    model.vision.reset_buffers()
    model.llm.reset_buffers()
    fresh: dict[str, nn.Module] = {}
    for name, buffer in list(model.named_buffers()):
        part, _, rest = name.partition('.')
        if buffer.is_meta and part in model_config:
            if part not in fresh:
                fresh[part] = _new_part(model, model_config, part)
            assign(model, name, fresh[part].get_buffer(rest))


def _new_part(model: VLM, model_config: Mapping[str, Any], part: str) -> nn.Module:
    config = dict(model_config[part])
    if part == 'vision':
        return VISION_TOWERS.build(config)
    if part == 'llm':
        return LANGUAGE_MODELS.build(config)
    if part == 'merge':
        return MERGES.build({'dim': model.llm.hidden_size, **config})
    return PROJECTORS.build({'in_dim': model.vision.hidden_size, 'out_dim': model.llm.hidden_size, **config})


def _equal(value: Tensor, parameter: Tensor) -> bool:
    return torch.equal(value.to(device=parameter.device, dtype=parameter.dtype), parameter)


def assign(model: nn.Module, name: str, value: Tensor) -> None:
    """Put ``value`` into a parameter's or a buffer's place, with its own dtype and device."""
    owner, _, leaf = name.rpartition('.')
    setattr(
        model.get_submodule(owner), leaf, value if is_buffer(model, name) else nn.Parameter(value, requires_grad=True)
    )
