"""Attention of packed rows: each sample by itself, through transformers' own sdpa.

A packed row holds several samples whose ``position_ids`` restart at 0. transformers keeps them apart with a mask of
L x L over the whole row, computes all of it and throws most away. Here every sample is a causal attention of its own:
the sum of squared lengths instead of the square of their sum, and no mask. Registered through transformers' public
``AttentionInterface``; unpacked calls go to its sdpa as they are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

__all__ = ['PACKED_SDPA', 'segments_of']

PACKED_SDPA = 'mmft_packed_sdpa'
"""What ``attn_implementation='sdpa'`` becomes inside ``CausalLM``."""


def segments_of(attention_mask: Tensor | None, position_ids: Tensor | None) -> list[int] | None:
    """Lengths of the samples of a packed row, None where the batch is not one packed row.

    Args:
        attention_mask: a packed row has none.
        position_ids: (B,L); restart at 0 with every sample.

    >>> segments_of(None, torch.tensor([[0, 1, 2, 0, 1]]))
    [3, 2]
    """
    if attention_mask is not None or position_ids is None or len(position_ids) != 1:
        return None
    starts = (position_ids[0] == 0).nonzero().flatten().tolist()
    if len(starts) < 2 or starts[0] != 0:
        return None
    return [stop - start for start, stop in zip(starts, [*starts[1:], position_ids.shape[1]], strict=True)]


def packed_sdpa(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    segments: list[int] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """(B,heads,L,d) each -> (B,L,heads,d); ``segments``: lengths of the samples of a packed row."""
    if segments is None or kwargs.get('sliding_window') is not None:  # a window needs the mask that it comes with
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    parts = zip(*(tensor.split(segments, dim=2) for tensor in (query, key, value)), strict=True)
    outs = [sdpa_attention_forward(module, q, k, v, None, is_causal=True, **kwargs)[0] for q, k, v in parts]
    return torch.cat(outs, dim=1), None


AttentionInterface.register(PACKED_SDPA, packed_sdpa)
AttentionMaskInterface.register(PACKED_SDPA, sdpa_mask)
