"""The model that a training starts from, where ``init_from`` puts weights over its base: what ``none`` exports."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mmft.checkpoint.build import build_meta
from mmft.checkpoint.load import build_opened
from mmft.engine.init_from import InitFrom
from mmft.export.inputs import TrainingCheckpoint
from mmft.export.lazy_tensors import ComputedTensor
from mmft.models.buffers import tensors_of
from mmft.models.lora import is_lora_key
from mmft.models.tuning import apply_tune
from mmft.registry import MODELS

if TYPE_CHECKING:
    from mmft.export.inputs import Base

__all__ = ['initial_checkpoint']


def initial_checkpoint(
    cfg: Mapping[str, Any], model_config: Mapping[str, Any], base: Base | None
) -> TrainingCheckpoint:
    """What ``init_from`` brings, in the form of a checkpoint of a training that has not begun.

    It needs the memory of the model: LoRA of other programs is merged into the base's weights.

    Raises:
        CheckpointError, ConfigError: as ``InitFrom`` does.
    """
    if base is None:
        model = MODELS.build(dict(model_config))
    else:
        model, _ = build_opened(base.opened, model_config)
    start = InitFrom(cfg['init_from'], model_config, {'path': base.pretrained} if base is not None else None)
    start.before_tune(model)
    own = tensors_of(model)
    # Unrounded, where the model's dtype has rounded them.
    values = {name: start.exact.get(name, own[name].detach()) for name in start.filled}
    adapters = {name: value for name, value in start.exact.items() if is_lora_key(name)}
    tune: dict[str, Any] = {}
    if adapters:
        with torch.device('meta'):
            tune = apply_tune(build_meta(model_config), dict(cfg.get('tune') or {}))
    tensors = values | adapters
    state = {name: ComputedTensor(tensors, name, value.dtype, tuple(value.shape)) for name, value in tensors.items()}
    return TrainingCheckpoint(Path(start.path), state, {'tune': tune, 'initialised': sorted(values)}, None)
