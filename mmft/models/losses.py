"""Cross entropy of the trained positions, computed in chunks so that the full logits never exist.

With a vocabulary of 92,553 the logits of one sequence of 2,048 tokens take 758 MB in float32, and a plain loss holds
several copies of them. Here the head sees only positions that have a label, ``chunk`` of them at a time, and its
gradient is made while the chunk's logits are at hand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

__all__ = ['chunked_cross_entropy']

CHUNK_BYTES = 64 * 2**20  # float32 logits alive at once; larger gains no speed on CPU or GPU, smaller costs launches


class _LinearCrossEntropy(torch.autograd.Function):
    """Sum of weighted cross entropies behind a linear head; gradients are computed in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        item_weight: Tensor | None,
        chunk: int,
    ) -> Tensor:
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        dtype = weight.dtype
        if torch.is_autocast_enabled(hidden.device.type):
            dtype = torch.get_autocast_dtype(hidden.device.type)
        kernel = weight.to(dtype)
        offset = bias.to(dtype) if bias is not None else None
        total = hidden.new_zeros((), dtype=torch.float32)
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        # The accumulator is float32 also for a 16-bit head: many small chunks are added to it.
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if need_weight else None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if need_bias else None
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(targets), chunk):
                part = slice(start, start + chunk)
                h, target = hidden[part].to(dtype), targets[part]
                logits = F.linear(h, kernel, offset).float()
                lse = logits.logsumexp(-1)
                losses = lse - logits.gather(1, target[:, None])[:, 0]
                scale = item_weight[part] if item_weight is not None else None
                total += (losses if scale is None else losses * scale).sum()
                if not (need_hidden or need_weight or need_bias):
                    continue
                # d loss / d logits = softmax - one_hot, written over the logits: no second tensor of that size.
                delta = logits.sub_(lse[:, None]).exp_()
                delta[torch.arange(len(target), device=delta.device), target] -= 1
                if scale is not None:
                    delta *= scale[:, None]
                if need_bias:
                    grad_bias += delta.sum(0)
                delta = delta.to(dtype)
                if need_hidden:
                    grad_hidden[part] = delta @ kernel
                if need_weight:
                    if dtype == torch.float32:
                        grad_weight.addmm_(delta.T, h)
                    else:
                        grad_weight += delta.T @ h
        grads = (
            grad_hidden,
            grad_weight.to(weight.dtype) if need_weight else None,
            grad_bias.to(bias.dtype) if need_bias else None,
        )
        ctx.save_for_backward(*grads)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        # In place: the gradients are this function's own and the graph is walked once (autograd frees them after).
        return (*(g.mul_(grad) if g is not None else None for g in ctx.saved_tensors), None, None, None)


def chunked_cross_entropy(
    hidden: Tensor,
    targets: Tensor,
    head: Callable[[Tensor], Tensor],
    linear: tuple[Tensor, Tensor | None] | None = None,
    item_weight: Tensor | None = None,
    chunk: int | None = None,
) -> Tensor:
    """Sum over M positions of ``item_weight * cross_entropy(head(hidden), targets)``, in float32.

    Args:
        hidden: (M,Dl) hidden states of the trained positions.
        targets: (M,) int64 token ids.
        head: (m,Dl) -> (m,V).
        linear: weight (V,Dl) and bias of ``head`` where it is one plain linear map: the fast path. Otherwise each
            chunk's head is run again in the backward pass.
        item_weight: (M,) float32 or None for ones.
        chunk: positions per chunk; by default as many as fit ``CHUNK_BYTES`` of logits.

    Returns:
        A float32 scalar, differentiable once.
    """
    if linear is not None:
        weight, bias = linear
        chunk = chunk or max(16, CHUNK_BYTES // (4 * len(weight)))
        return _LinearCrossEntropy.apply(hidden, weight, bias, targets, item_weight, chunk)

    def part_loss(h: Tensor, target: Tensor, scale: Tensor | None) -> Tensor:
        losses = F.cross_entropy(head(h).float(), target, reduction='none')
        return (losses if scale is None else losses * scale).sum()

    total = hidden.new_zeros((), dtype=torch.float32)
    for start in range(0, len(targets), chunk or 256):
        part = slice(start, start + (chunk or 256))
        scale = item_weight[part] if item_weight is not None else None
        total = total + checkpoint(part_loss, hidden[part], targets[part], scale, use_reentrant=False)
    return total
