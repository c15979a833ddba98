"""A model from its config alone, without weights; dtypes and devices as users name them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch

from mmft.errors import ConfigError, MMFTError, first_line
from mmft.registry import MODELS
from mmft.words import clipped

if TYPE_CHECKING:
    from mmft.models import VLM

__all__ = ['MOST_LAYERS', 'as_device', 'as_dtype', 'build_meta']

MOST_LAYERS = 2_000

_REPEATED = {'depth', 'layers', 'n_layers', 'num_experts', 'num_hidden_layers', 'num_layers', 'num_local_experts'}


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


def build_meta(model_config: Mapping[str, Any]) -> VLM:
    """The model on the meta device: every shape, no memory.

    Raises:
        ConfigError: an impossible part, or an absurdly large one (a number with a few zeros too many).
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
