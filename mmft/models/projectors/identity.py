"""Identity: patch features as they are, for a tower that is as wide as the language model."""

from __future__ import annotations

from torch import Tensor

from mmft.checks import check_counts
from mmft.errors import ConfigError
from mmft.models.base import Projector
from mmft.registry import PROJECTORS

__all__ = ['Identity']


@PROJECTORS.register_module()
class Identity(Projector):
    """Returns its input (``identity`` of LLaVA and TinyLLaVA).

    Args:
        in_dim: Dv of the vision tower.
        out_dim: Dl of the language model; must be ``in_dim``.

    >>> import torch
    >>> Identity(8, 8)(torch.zeros(2, 16, 8)).shape
    torch.Size([2, 16, 8])
    """

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        check_counts('Identity', in_dim=in_dim, out_dim=out_dim)
        if in_dim != out_dim:
            raise ConfigError(
                f'Identity: the vision tower is {in_dim} wide, the language model {out_dim}',
                expected='two equal widths',
                fix="use projector=dict(type='Linear') or 'MLP', which map one width to the other",
            )
        self.in_dim, self.out_dim = in_dim, out_dim

    def num_tokens(self, num_patches: int) -> int:
        """Q = P."""
        return num_patches

    def forward(self, x: Tensor) -> Tensor:
        """(N,P,Dv) -> (N,P,Dl), Dl = Dv."""
        return x
