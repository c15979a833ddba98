"""LoRA on any part of a model; with its layer in ``lora_linear.py``, the one place that imports peft.

Adapters are injected in place (``peft.inject_adapter_in_model``), so a part keeps its class and its interface. Merging
is plain arithmetic on a state dict: the exporter needs no peft and no built model for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmft.errors import ConfigError

__all__ = [
    'ADAPTER',
    'add_lora_',
    'inject_lora',
    'is_lora_key',
    'linear_names',
    'load_adapter',
    'lora_delta',
    'plain_key',
]

ADAPTER = 'default'
_LORA_KEY = re.compile(r'\.(lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)\.')


def is_lora_key(key: str) -> bool:
    """Whether a state-dict key belongs to an adapter.

    >>> is_lora_key('llm.lm.model.layers.0.self_attn.q_proj.lora_A.default.weight')
    True
    """
    return _LORA_KEY.search(key) is not None


def plain_key(key: str) -> str:
    """The name a weight has without adapters around it.

    >>> plain_key('vision.encoder.layers.0.attn.qkv.base_layer.weight')
    'vision.encoder.layers.0.attn.qkv.weight'
    """
    return key.replace('.base_layer.', '.')


def linear_names(module: nn.Module, skip: Iterable[str] = ('lm_head',)) -> list[str]:
    """Last name components of every linear layer in ``module``, output head excluded: LoRA's usual targets."""
    names = {name.rsplit('.', 1)[-1] for name, child in module.named_modules() if isinstance(child, nn.Linear)}
    return sorted(names - set(skip))


def inject_lora(
    module: nn.Module,
    r: int = 16,
    alpha: float | None = None,
    dropout: float = 0.05,
    targets: Iterable[str] | str | None = None,
    layers: Iterable[int] | None = None,
    dora: bool = False,
    name: str = 'module',
) -> dict[str, Any]:
    """Put LoRA (Hu et al. 2021, arXiv:2106.09685) on the linear layers of ``module``, in place.

    Args:
        r: rank.
        alpha: scale is ``alpha / r``; by default 2 r, as InternVL's own script sets it.
        dropout: on the adapter's input.
        targets: last name components of layers, or a regular expression over whole names; by default every linear
            layer but the output head.
        layers: indices of blocks to touch; None for all.
        dora: weight-decomposed LoRA (arXiv:2402.09353).
        name: the part's name, for messages.

    Returns:
        The settings as used, plain types: a checkpoint keeps them and merging reads them.
    """
    from peft import LoraConfig, inject_adapter_in_model

    from mmft.models.lora_linear import LoraLinear

    if r < 1:
        raise ConfigError(f'LoRA on {name}: r = {r}', expected='1 or more', fix=f'set tune.{name}.r, e.g. 16')
    alpha = float(2 * r if alpha is None else alpha)
    found = linear_names(module)
    if not found:
        raise ConfigError(
            f'LoRA on {name}: {type(module).__name__} has no linear layer here',
            expected='a part with linear layers',
            fix=f"set tune.{name} to 'full' or 'frozen'",
        )
    chosen = found if targets is None else targets if isinstance(targets, str) else sorted(targets)
    if not isinstance(chosen, str) and (missing := sorted(set(chosen) - set(found))):
        raise ConfigError(
            f'LoRA on {name}: no linear layer is named {missing}',
            expected=f'some of {found}',
            fix=f'correct tune.{name}.targets, or leave it out for all',
        )
    config = LoraConfig(
        r=r,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=chosen if layers is None else _inside(module, [*layers], chosen),
        use_dora=dora,
        bias='none',
    )
    # Layers of other kinds (NF4's are subclasses too) keep the class that peft has for them.
    if all(type(child) is nn.Linear for child in module.modules() if isinstance(child, nn.Linear)):
        config._register_custom_module({nn.Linear: LoraLinear})
    try:
        inject_adapter_in_model(config, module, adapter_name=ADAPTER)
    except ValueError as error:  # a regular expression that matches nothing, or layers of other kinds
        raise ConfigError(
            f'LoRA on {name}: {error}', expected=f'linear layers, such as {found}', fix=f'correct tune.{name}.targets'
        ) from error
    return {
        'r': r,
        'alpha': alpha,
        'dropout': dropout,
        'targets': chosen,
        'dora': dora,
        'layers': list(layers) if layers is not None else None,
    }


def _inside(module: nn.Module, layers: list[int], chosen: str | list[str]) -> list[str]:
    """Full names of the linear layers that ``chosen`` means in these blocks: peft would count by the last number in a
    name, which in a network of stages is not theirs."""
    blocks = list(module.layers)
    inside = {id(child) for number in layers for child in blocks[number].modules()}
    return [
        name
        for name, child in module.named_modules()
        if isinstance(child, nn.Linear)
        and id(child) in inside
        and (re.fullmatch(chosen, name) if isinstance(chosen, str) else name.rsplit('.', 1)[-1] in chosen)
    ]


def lora_delta(key: str, weight: Tensor, adapter: Mapping[str, Tensor], alpha: float, r: int) -> Tensor:
    """The merged weight of one layer.

    Args:
        key: the layer's name without ``.weight``, as it is in ``adapter`` (``llm.lm.model.layers.0...q_proj``).
        weight: (out,in) base weight.
        adapter: state dict that holds ``{key}.lora_A.default.weight`` (r,in) and ``lora_B`` (out,r).

    Returns:
        (out,in) in ``weight``'s dtype: ``W + alpha/r * B A``, with DoRA's magnitudes where there are any. Added in
        float32 and rounded once.
    """
    a, b = (adapter[f'{key}.{kind}.{ADAPTER}.weight'].float() for kind in ('lora_A', 'lora_B'))
    magnitude = adapter.get(f'{key}.lora_magnitude_vector.{ADAPTER}.weight')
    return add_lora_(weight.to(torch.float32, copy=True), a, b, alpha / r, magnitude).to(weight.dtype)


def add_lora_(weight: Tensor, a: Tensor, b: Tensor, scale: float, magnitude: Tensor | None = None) -> Tensor:
    """Merge an adapter into ``weight``, in place.

    Args:
        weight: (out,in) float32; some rows of a layer will do, with their rows of ``b`` and ``magnitude``.
        a, b: (r,in) and (out,r) float32.
        magnitude: (out,), DoRA's.
    """
    weight.addmm_(b, a, alpha=scale)
    if magnitude is not None:
        weight *= (magnitude.float() / torch.linalg.norm(weight, dim=1))[:, None]
    return weight


def load_adapter(model: nn.Module, directory: str) -> nn.Module:
    """``model`` with the PEFT adapter of a directory over it, in eval mode."""
    from peft import PeftModel

    return PeftModel.from_pretrained(model, directory).eval()
