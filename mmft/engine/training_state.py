"""What a training checkpoint holds: one ``.pth`` that says everything about itself.

A file holds tensors and plain Python values only: ``torch.load(path, weights_only=True)`` reads it, and reading it runs
no code. Its keys::

    state_dict        name -> tensor, of all that is trained (LoRA run: adapters, projector, unfrozen layers), of the
                      buffers that move with it, and of
                      all that is frozen and in no base (randomly initialised, or from init_from): meta.initialised
    optimizer         state of the wrapper: {'optimizer', 'scaler'};  param_names: the parameters of each group
    param_schedulers  states, in order
    rng               per rank: torch, cuda, numpy and python generators
    position          {'epoch', 'batch', 'iter', 'validated_at', 'order'}: where the data stands
    encoder           ChatEncoder.to_dict()
    meta              mmft_version, config (the whole, as plain JSON), code (modules of parts that are not mmft's), base
                      {'path' (or part -> path), 'fingerprint'}, tune, initialised (names), seed, world_size, iter,
                      epoch, history (metrics of each validation), best, run
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmft.engine.optim import OptimWrapper, trained_parameters
from mmft.errors import CheckpointError, first_line
from mmft.models.buffers import moving_buffers

__all__ = ['get_rng', 'initialised_state', 'load_trained', 'plain', 'regrouped', 'set_rng', 'trained_state']

logger = logging.getLogger(__name__)


def plain(value: Any) -> Any:
    """``value`` as tensors and plain Python types, so that ``weights_only=True`` can read it back.

    Raises:
        TypeError: something that has no plain form.
    """
    if value is None or isinstance(value, (bool, int, float, str, Tensor)):
        if isinstance(value, Tensor):
            return value.detach()
        return next((kind(value) for kind in (bool, int, float, str) if isinstance(value, kind)), None)
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(plain(item) for item in value)
    if isinstance(value, (list, set)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, (torch.dtype, Path)):
        return str(value)
    raise TypeError(f'{type(value).__name__} cannot be stored in a checkpoint: {value!r}')


def trained_state(model: nn.Module, optim: OptimWrapper) -> dict[str, Tensor]:
    """Name -> CPU tensor of all that training changes: trained parameters, which ``optim`` puts together where they are
    sharded, and the buffers that move with them, such as the running statistics of a batch norm."""
    state = {name: optim.read(p).cpu() for name, p in trained_parameters(model).items()}
    return state | {name: buffer.cpu() for name, buffer in moving_buffers(model).items()}


def initialised_state(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """What a checkpoint holds beside the trained tensors, since neither base nor ``init_from`` may provide it later."""
    return {name: content['state_dict'][name] for name in content['meta'].get('initialised') or ()}


def load_trained(model: nn.Module, optim: OptimWrapper, content: Mapping[str, Any], path: str | os.PathLike) -> None:
    """Put the trained tensors of a checkpoint into ``model``.

    Raises:
        CheckpointError: names or shapes are not exactly those that the model trains.
    """
    others = initialised_state(content)
    state = {name: tensor for name, tensor in content['state_dict'].items() if name not in others}
    buffers = moving_buffers(model)
    if buffers and not buffers.keys() & state.keys():
        logger.warning(
            f'{path} is of an mmft that stored no buffers: {len(buffers)}, such as {min(buffers)}, start afresh'
        )
        buffers = {}
    own = trained_parameters(model)
    there = own.keys() | buffers.keys()
    unknown, missing = sorted(set(state) - there), sorted(there - set(state))
    if unknown or missing:
        raise CheckpointError(
            f'{path} does not hold what this config trains:'
            f'{_some("missing", missing)}{_some("not trained here", unknown)}',
            expected='the config (model and `tune`) the checkpoint was trained with',
            fix='take the config from the work_dir of that run',
        )
    shapes = {name: tuple(getattr(p, 'ds_shape', p.shape)) for name, p in own.items()}  # ZeRO-3 leaves p.shape empty
    shapes |= {name: tuple(buffer.shape) for name, buffer in buffers.items()}
    wrong = [f'{k} {tuple(v.shape)} for {shapes[k]}' for k, v in state.items() if tuple(v.shape) != shapes[k]]
    if wrong:
        raise CheckpointError(f'{path} has other shapes than the model: {_some("", wrong)}', expected='the same model')
    with torch.no_grad():
        for name, tensor in state.items():
            if name in buffers:
                buffers[name].copy_(tensor)
            else:
                optim.write(own[name], tensor)


def _some(title: str, names: Iterable[str], most: int = 3) -> str:
    names = list(names)
    if not names:
        return ''
    more = f' and {len(names) - most} more' if len(names) > most else ''
    return f'\n  {title} {", ".join(names[:most])}{more}'


def regrouped(
    state: Mapping[str, Any], before: Sequence[Sequence[str]], now: Sequence[Sequence[str]]
) -> dict[str, Any]:
    """The state of an optimizer for the same parameters in other groups: those of 0.1 had other tables.

    Args:
        state: of the wrapper, in a checkpoint.
        before, now: the names of each group, there and here.
    """
    saved, place = state['optimizer'], {name: number for number, name in enumerate(chain(*before))}
    kept = {number: saved['state'].get(place[name]) for number, name in enumerate(chain(*now))}
    numbers = iter(kept)
    groups = [{**saved['param_groups'][0], 'params': [next(numbers) for _ in names]} for names in now]
    kept = {number: moments for number, moments in kept.items() if moments is not None}
    return {**state, 'optimizer': {'state': kept, 'param_groups': groups}}


def get_rng() -> dict[str, Any]:
    """Every generator that training draws from, as plain values."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    version, internal, gauss_next = random.getstate()
    return {
        'torch': torch.get_rng_state(),
        'cuda': torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        'numpy': [kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss],
        'python': [version, list(internal), gauss_next],
    }


def set_rng(state: Mapping[str, Any]) -> None:
    """Put every generator back where ``get_rng`` found it.

    Raises:
        CheckpointError: these are not the states of generators.
    """
    try:
        torch.set_rng_state(state['torch'])
        if state['cuda'] and len(state['cuda']) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state['cuda'])
        kind, keys, position, has_gauss, gauss = state['numpy']
        np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
        version, internal, gauss_next = state['python']
        random.setstate((version, tuple(internal), gauss_next))
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f'the random state in the checkpoint cannot be read: {first_line(error)}',
            expected='a checkpoint as mmft writes it',
            fix='take another one of the same folder, or use init_from to start a new run with its weights',
        ) from error
