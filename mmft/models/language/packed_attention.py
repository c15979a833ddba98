"""Attention of packed rows: each sample by itself, through transformers' own sdpa.

A packed row holds several samples whose ``position_ids`` restart at 0. transformers keeps them apart with a mask of
L x L over the whole row, computes all of it and throws most away. Here every sample is a causal attention of its own:
the sum of squared lengths instead of the square of their sum, and no mask but of a sample that is longer than a sliding
window. Registered through transformers' public ``AttentionInterface``; unpacked calls go to its sdpa as they are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

__all__ = ['PACKED_SDPA', 'lengths_as_mask']

PACKED_SDPA = 'mmft_packed_sdpa'
"""What ``attn_implementation='sdpa'`` becomes inside ``CausalLM``."""


def lengths_as_mask(attention_mask: Tensor | None, position_ids: Tensor | None) -> Tensor | None:
    """The mask to call transformers with: of one packed row the lengths of its samples, (1,1,1,samples) on the CPU.

    A mask of four dimensions transformers hands to every attention as it is, and makes none of L x L. (Other arguments
    would not reach all of them: StableLM's blocks drop those.)

    Args:
        attention_mask: a packed row has none.
        position_ids: (B,L); restart at 0 with every sample.

    >>> lengths_as_mask(None, torch.tensor([[0, 1, 2, 0, 1]]))
    tensor([[[[3, 2]]]])
    """
    if attention_mask is not None or position_ids is None or len(position_ids) != 1:
        return attention_mask
    starts = (position_ids[0] == 0).nonzero().flatten().cpu()
    if len(starts) < 2 or starts[0] != 0:
        return None
    return starts.diff(append=torch.tensor([position_ids.shape[1]]))[None, None, None]


def packed_sdpa(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """(B,heads,L,d) each -> (B,L,heads,d).

    Args:
        attention_mask: of an unpacked row, with the window in it; of a packed one ``lengths_as_mask``.
        sliding_window: how many tokens, itself the last, a token of a packed row sees; None: all before it.
    """
    if attention_mask is None or attention_mask.dtype != torch.int64:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    lengths, outs = attention_mask.flatten().tolist(), []
    for q, k, v in zip(*(tensor.split(lengths, dim=2) for tensor in (query, key, value)), strict=True):
        window = _window(q.shape[2], sliding_window, q.device)
        outs.append(sdpa_attention_forward(module, q, k, v, window, is_causal=window is None, **kwargs)[0])
    return torch.cat(outs, dim=1), None


def _window(length: int, size: int | None, device: torch.device) -> Tensor | None:
    """(1,1,length,length), True where a token is seen; None where the window holds the whole sample."""
    if size is None or length <= size:
        return None
    return torch.ones(1, 1, length, length, dtype=torch.bool, device=device).tril().triu(1 - size)


AttentionInterface.register(PACKED_SDPA, packed_sdpa)
AttentionMaskInterface.register(PACKED_SDPA, sdpa_mask)
