"""MoFMLP: one MLP per vision tower, their tokens interleaved (mixture of features)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmft.checks import check_counts, is_whole
from mmft.errors import ConfigError
from mmft.models.base import Projector
from mmft.models.projectors.mlp import mlp
from mmft.registry import PROJECTORS

__all__ = ['MoFMLP']


@PROJECTORS.register_module()
class MoFMLP(Projector):
    """Interleaved mixture of features (Tong et al., arXiv:2401.06209; TinyLLaVA's ``mof_mlp``).

    The features of several towers arrive side by side in the channels, as ``MoFTower`` gives them. Each tower's share
    goes through an MLP of its own; the tokens of one patch then follow each other, first tower first.

    Args:
        in_dim: Dv, all towers together.
        out_dim: Dl of the language model.
        in_dims: channels of each tower, in order; two equal halves by default.
        depth, act, hidden_dim: of each MLP, as in ``MLP``.

    >>> import torch
    >>> MoFMLP(16, 12)(torch.zeros(2, 9, 16)).shape
    torch.Size([2, 18, 12])
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        in_dims: Sequence[int] | None = None,
        depth: int = 2,
        act: str = 'gelu',
        hidden_dim: int | None = None,
    ) -> None:
        super().__init__()
        check_counts('MoFMLP', in_dim=in_dim, out_dim=out_dim)
        in_dims = [in_dim // 2] * 2 if in_dims is None else in_dims
        listed = isinstance(in_dims, Sequence) and all(is_whole(dim, least=1) for dim in in_dims)
        if not listed or sum(in_dims) != in_dim:
            raise ConfigError(
                f'MoFMLP: shares {in_dims!r} of {in_dim} channels',
                expected=f'shares that add up to {in_dim}, the hidden sizes of the towers in order',
                fix="give in_dims, or use a tower of type='MoFTower'",
            )
        self.in_dim, self.out_dim, self.in_dims = in_dim, out_dim, list(in_dims)
        self.depth, self.act, self.hidden_dim = depth, act, hidden_dim
        self.mlps = nn.ModuleList(mlp(dim, out_dim, depth, act, hidden_dim) for dim in in_dims)

    def num_tokens(self, num_patches: int) -> int:
        """Q = P x the number of towers."""
        return num_patches * len(self.in_dims)

    def forward(self, x: Tensor) -> Tensor:
        """(N,P,Dv) -> (N,Q,Dl)."""
        shares = x.split(self.in_dims, dim=-1)
        return torch.stack([layer(share) for layer, share in zip(self.mlps, shares, strict=True)], dim=2).flatten(1, 2)
