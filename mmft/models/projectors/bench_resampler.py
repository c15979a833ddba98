"""BenchResampler: TinyLLaVABench's resampler, another network than the TinyLLaVA Factory's of the same name."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmft.checks import check_counts
from mmft.errors import ConfigError
from mmft.models.base import Projector
from mmft.models.projectors.resampler import feed_forward
from mmft.registry import PROJECTORS
from mmft.words import count_of

__all__ = ['BenchResampler']


class ResamplerBlock(nn.Module):
    """Queries attend to the patches only, then a feed-forward; both residual, norms first."""

    def __init__(self, hidden_size: int, in_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_q = nn.Linear(hidden_size, hidden_size, bias=False)
        self.to_k = nn.Linear(in_dim, hidden_size, bias=False)
        self.to_v = nn.Linear(in_dim, hidden_size, bias=False)
        self.to_out = nn.Linear(hidden_size, hidden_size, bias=False)
        self.feed_forward = feed_forward(hidden_size)
        self.norm_image = nn.LayerNorm(in_dim)
        self.norm_hidden = nn.LayerNorm(hidden_size)

    def forward(self, queries: Tensor, x: Tensor) -> Tensor:
        """(N,Q,H), (N,P,Dv) -> (N,Q,H), H the hidden size."""
        x = self.norm_image(x)
        heads = self.to_q(self.norm_hidden(queries)), self.to_k(x), self.to_v(x)
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in heads)
        queries = queries + self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return queries + self.feed_forward(queries)


@PROJECTORS.register_module()
class BenchResampler(Projector):
    """Learned queries read the patches in a width of their own, then one linear map (``mm_projector_type='resampler'``
    of TinyLLaVABench, with its parameter names).

    Args:
        in_dim: Dv of the vision tower.
        out_dim: Dl of the language model.
        num_queries: Q, however many patches there are.
        depth: blocks (their ``num_resampler_layers``).
        hidden_size: width of the queries (their ``resampler_hidden_size``).
        num_heads: by default theirs, 8 at width 512 and 12 at any other.

    >>> import torch
    >>> BenchResampler(8, 12, num_queries=4, depth=1, hidden_size=24)(torch.zeros(2, 16, 8)).shape
    torch.Size([2, 4, 12])
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        num_queries: int = 128,
        depth: int = 3,
        hidden_size: int = 768,
        num_heads: int | None = None,
    ) -> None:
        super().__init__()
        num_heads = num_heads if num_heads is not None else 8 if hidden_size == 512 else 12
        sizes = {'num_queries': num_queries, 'depth': depth, 'hidden_size': hidden_size, 'num_heads': num_heads}
        check_counts('BenchResampler', in_dim=in_dim, out_dim=out_dim, **sizes)
        if hidden_size % num_heads:
            raise ConfigError(
                f'BenchResampler: hidden_size {hidden_size} with {count_of(num_heads, "head")}',
                expected='a multiple of the number of heads',
                fix='change hidden_size or num_heads',
            )
        self.in_dim, self.out_dim, self.num_queries, self.depth = in_dim, out_dim, num_queries, depth
        self.hidden_size, self.num_heads = hidden_size, num_heads
        self.queries = nn.Parameter(torch.randn(num_queries, hidden_size))
        self.resampler_blocks = nn.ModuleList(ResamplerBlock(hidden_size, in_dim, num_heads) for _ in range(depth))
        self.post_norm = nn.LayerNorm(hidden_size)
        self.final_proj = nn.Linear(hidden_size, out_dim, bias=False)

    def num_tokens(self, num_patches: int) -> int:
        """Q = ``num_queries``."""
        return self.num_queries

    def forward(self, x: Tensor) -> Tensor:
        """(N,P,Dv) -> (N,Q,Dl)."""
        queries = self.queries.expand(len(x), -1, -1)
        for block in self.resampler_blocks:
            queries = block(queries, x)
        return self.final_proj(self.post_norm(queries))
