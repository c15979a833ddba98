"""Resampler: a fixed number of learned latents read the patches, as in Flamingo; the TinyLLaVA Factory's form."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmft.checks import check_counts
from mmft.models.base import Projector
from mmft.registry import PROJECTORS

__all__ = ['Resampler', 'feed_forward']


def feed_forward(dim: int, factor: int = 4) -> nn.Sequential:
    """LayerNorm, Linear, GELU, Linear, without biases: (..., dim) -> (..., dim)."""
    return nn.Sequential(
        nn.LayerNorm(dim), nn.Linear(dim, factor * dim, bias=False), nn.GELU(), nn.Linear(factor * dim, dim, bias=False)
    )


class PerceiverAttention(nn.Module):
    """Latents attend to the patches and to themselves, both normed first."""

    def __init__(self, dim: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm_media = nn.LayerNorm(dim)
        self.norm_latents = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, num_heads * head_dim, bias=False)
        self.to_kv = nn.Linear(dim, 2 * num_heads * head_dim, bias=False)
        self.to_out = nn.Linear(num_heads * head_dim, dim, bias=False)

    def forward(self, x: Tensor, latents: Tensor) -> Tensor:
        """(N,P,Dl), (N,Q,Dl) -> (N,Q,Dl)."""
        latents = self.norm_latents(latents)
        q = self.to_q(latents)
        k, v = self.to_kv(torch.cat([self.norm_media(x), latents], dim=1)).chunk(2, dim=-1)
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in (q, k, v))
        return self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


@PROJECTORS.register_module()
class Resampler(Projector):
    """Perceiver resampler (arXiv:2204.14198) in the TinyLLaVA Factory's form, with its parameter names.

    It works in the language model's width; the Factory's ``resampler_hidden_size`` changes nothing there, so there is
    no such argument here.

    Args:
        in_dim: Dv of the vision tower.
        out_dim: Dl of the language model.
        num_queries: Q, however many patches there are.
        depth: blocks of attention and feed-forward (their ``num_resampler_layers``).
        num_heads, head_dim: of the attention; 8 x 64 there, whatever Dl is.

    >>> import torch
    >>> Resampler(8, 12, num_queries=4, depth=1)(torch.zeros(2, 16, 8)).shape
    torch.Size([2, 4, 12])
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        num_queries: int = 128,
        depth: int = 3,
        num_heads: int = 8,
        head_dim: int = 64,
    ) -> None:
        super().__init__()
        sizes = {'num_queries': num_queries, 'depth': depth, 'num_heads': num_heads, 'head_dim': head_dim}
        check_counts('Resampler', in_dim=in_dim, out_dim=out_dim, **sizes)
        self.in_dim, self.out_dim, self.num_queries, self.depth = in_dim, out_dim, num_queries, depth
        self.num_heads, self.head_dim = num_heads, head_dim
        self.latents = nn.Parameter(torch.randn(num_queries, out_dim))
        self.linear = nn.Linear(in_dim, out_dim)
        self.layers = nn.ModuleList(
            nn.ModuleList([PerceiverAttention(out_dim, num_heads, head_dim), feed_forward(out_dim)])
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(out_dim)

    def num_tokens(self, num_patches: int) -> int:
        """Q = ``num_queries``."""
        return self.num_queries

    def forward(self, x: Tensor) -> Tensor:
        """(N,P,Dv) -> (N,Q,Dl)."""
        x = self.linear(x)
        latents = self.latents.expand(len(x), -1, -1)
        for attention, forward in self.layers:
            latents = attention(x, latents) + latents
            latents = forward(latents) + latents
        return self.norm(latents)
