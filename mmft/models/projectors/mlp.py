"""MLP: linear layers with an activation between, per patch; LLaVA-1.5's ``mlp2x_gelu`` and its deeper relatives."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from mmft.checks import check_counts
from mmft.errors import ConfigError
from mmft.models.base import Projector
from mmft.registry import PROJECTORS

__all__ = ['ACTIVATIONS', 'MLP', 'mlp']

ACTIVATIONS = {
    'gelu': nn.GELU,
    'gelu_pytorch_tanh': lambda: nn.GELU(approximate='tanh'),
    'relu': nn.ReLU,
    'silu': nn.SiLU,
}


def mlp(in_dim: int, out_dim: int, depth: int = 2, act: str = 'gelu', hidden_dim: int | None = None) -> nn.Sequential:
    """``depth`` linear layers: ``in_dim`` -> ``hidden_dim`` -> ... -> ``out_dim``, activations between.

    Raises:
        ConfigError: no layer at all, an invalid width, or an unknown activation.

    >>> mlp(8, 12, depth=3)[::2]
    Sequential(
      (0): Linear(in_features=8, out_features=12, bias=True)
      (2): Linear(in_features=12, out_features=12, bias=True)
      (4): Linear(in_features=12, out_features=12, bias=True)
    )
    """
    hidden_dim = out_dim if hidden_dim is None else hidden_dim
    check_counts('a projector MLP', in_dim=in_dim, out_dim=out_dim, depth=depth, hidden_dim=hidden_dim)
    if act not in ACTIVATIONS:
        raise ConfigError(f'a projector MLP with act {act!r}', expected=f'one of {sorted(ACTIVATIONS)}')
    widths = [in_dim, *[hidden_dim] * (depth - 1), out_dim]
    layers: list[nn.Module] = []
    for here, there in pairwise(widths):
        layers += [ACTIVATIONS[act](), nn.Linear(here, there)]
    return nn.Sequential(*layers[1:])


@PROJECTORS.register_module()
class MLP(Projector):
    """An MLP per patch (LLaVA-1.5, arXiv:2310.03744: ``mlp2x_gelu`` is the default, ``mlp{N}x_gelu`` has depth N).

    Args:
        in_dim: Dv of the vision tower.
        out_dim: Dl of the language model.
        depth: linear layers.
        act: activation between them.
        hidden_dim: width between them; Dl by default, as in LLaVA.

    >>> import torch
    >>> MLP(8, 12)(torch.zeros(2, 16, 8)).shape
    torch.Size([2, 16, 12])
    """

    def __init__(
        self, in_dim: int, out_dim: int, depth: int = 2, act: str = 'gelu', hidden_dim: int | None = None
    ) -> None:
        super().__init__()
        self.in_dim, self.out_dim, self.depth, self.act, self.hidden_dim = in_dim, out_dim, depth, act, hidden_dim
        self.mlp = mlp(in_dim, out_dim, depth, act, hidden_dim)

    def num_tokens(self, num_patches: int) -> int:
        """Q = P."""
        return num_patches

    def forward(self, x: Tensor) -> Tensor:
        """(N,P,Dv) -> (N,P,Dl)."""
        return self.mlp(x)
