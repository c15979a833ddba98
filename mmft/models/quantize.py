"""4-bit NF4 weights for QLoRA (Dettmers et al. 2023, arXiv:2305.14314); the one file that imports bitsandbytes."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from mmft.errors import ConfigError

__all__ = ['quantize_nf4']


def quantize_nf4(part: nn.Module, skip: Iterable[str] = ('lm_head',)) -> int:
    """Replace every linear layer of ``part`` but ``skip`` by its NF4 form, in place.

    On a GPU the weights shrink to about 4.1 bits each (double quantisation) when the part moves there; bitsandbytes
    computes in the input's dtype. The exporter merges adapters into the base's own 16-bit weights, not into these.

    Returns:
        How many layers were replaced.

    Raises:
        ConfigError: bitsandbytes is not installed.
    """
    try:
        import bitsandbytes as bnb
    except ImportError as error:
        raise ConfigError(
            'QLoRA needs bitsandbytes, which is not installed', fix="pip install 'bitsandbytes>=0.49'"
        ) from error

    skipped = set(skip)
    found = [
        (name, layer)
        for name, layer in part.named_modules()
        if isinstance(layer, nn.Linear) and name.rsplit('.', 1)[-1] not in skipped
    ]
    for name, layer in found:
        on_meta = layer.weight.is_meta
        with torch.device('meta' if on_meta else layer.weight.device):
            packed = bnb.nn.Linear4bit(
                layer.in_features,
                layer.out_features,
                bias=layer.bias is not None,
                compute_dtype=layer.weight.dtype if layer.weight.dtype != torch.float32 else torch.float32,
                quant_type='nf4',
                compress_statistics=True,
            )
        if not on_meta:
            packed.weight = bnb.nn.Params4bit(layer.weight.data, requires_grad=False, quant_type='nf4')
            if layer.bias is not None:
                packed.bias = layer.bias
            # bitsandbytes quantises when a layer is moved to a device.
            packed = packed.to(layer.weight.device)
        # On CPUs with AVX512-BF16 bitsandbytes repacks a weight in place at its first pass without gradients (as in
        # validation), into a form that no gradient passes through any more: training after it silently learns nothing.
        packed.support_avx512bf16_for_cpu = False
        packed.requires_grad_(False)
        owner, _, leaf = name.rpartition('.')
        setattr(part.get_submodule(owner), leaf, packed)
    return len(found)
