"""Linear: one linear map per patch, the connector of the first LLaVA."""

from __future__ import annotations

from torch import Tensor, nn

from mmft.checks import check_counts
from mmft.models.base import Projector
from mmft.registry import PROJECTORS

__all__ = ['Linear']


@PROJECTORS.register_module()
class Linear(Projector):
    """One linear map (LLaVA, arXiv:2304.08485: ``mm_projector_type='linear'``).

    Args:
        in_dim: Dv of the vision tower.
        out_dim: Dl of the language model.

    >>> import torch
    >>> Linear(8, 12)(torch.zeros(2, 16, 8)).shape
    torch.Size([2, 16, 12])
    """

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        check_counts('Linear', in_dim=in_dim, out_dim=out_dim)
        self.in_dim, self.out_dim = in_dim, out_dim
        self.linear = nn.Linear(in_dim, out_dim)

    def num_tokens(self, num_patches: int) -> int:
        """Q = P."""
        return num_patches

    def forward(self, x: Tensor) -> Tensor:
        """(N,P,Dv) -> (N,P,Dl)."""
        return self.linear(x)
