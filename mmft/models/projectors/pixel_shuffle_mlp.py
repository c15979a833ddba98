"""PixelShuffleMLP, the connector of InternVL2: folds neighbouring patches into channels, then a two-layer MLP."""

from __future__ import annotations

from einops import rearrange
from torch import Tensor, nn

from mmft.checks import check_counts, check_numbers
from mmft.errors import ConfigError, ShapeError
from mmft.models.base import Projector
from mmft.registry import PROJECTORS

__all__ = ['PixelShuffleMLP', 'pixel_shuffle']


def pixel_shuffle(x: Tensor, factor: int, version: str = 'v2') -> Tensor:
    """Fold every ``factor x factor`` square of patches into the channels of one.

    Args:
        x: (N,H,W,C), H and W multiples of ``factor``.
        version: ``v2`` keeps rows and columns in place; ``v1`` returns them transposed, as the first InternVL did.

    Returns:
        (N,H/factor,W/factor,C*factor^2); channels are (row in square, column in square, C).

    >>> import torch
    >>> pixel_shuffle(torch.arange(16.).view(1, 4, 4, 1), 2)[0, 0].tolist()
    [[0.0, 1.0, 4.0, 5.0], [2.0, 3.0, 6.0, 7.0]]
    """
    pattern = 'n (h f) (w g) c -> n h w (f g c)' if version == 'v2' else 'n (h f) (w g) c -> n w h (f g c)'
    return rearrange(x, pattern, f=factor, g=factor)


@PROJECTORS.register_module()
class PixelShuffleMLP(Projector):
    """Pixel shuffle, LayerNorm, Linear, GELU, Linear (``mlp1`` of OpenGVLab's ``modeling_internvl_chat.py``).

    Args:
        in_dim: Dv of the vision tower.
        out_dim: Dl of the language model.
        scale: side ratio of the shuffle; 0.5 makes 4 patches one token.
        version: ``v2`` (all InternVL2 models) or ``v1``.

    >>> import torch
    >>> PixelShuffleMLP(8, 12)(torch.zeros(2, 16, 8)).shape
    torch.Size([2, 4, 12])
    """

    def __init__(self, in_dim: int, out_dim: int, scale: float = 0.5, version: str = 'v2') -> None:
        super().__init__()
        check_counts('PixelShuffleMLP', in_dim=in_dim, out_dim=out_dim)
        check_numbers('PixelShuffleMLP', scale=scale)
        factor = round(1 / scale) if scale > 0 else 0
        if factor < 1 or abs(factor * scale - 1) > 1e-6:
            raise ConfigError(f'PixelShuffleMLP: scale {scale}', expected='1, 1/2, 1/3, ...')
        if version not in ('v1', 'v2'):
            raise ConfigError(f'PixelShuffleMLP: version {version!r}', expected="'v1' or 'v2'")
        self.in_dim, self.out_dim, self.scale, self.version, self.factor = in_dim, out_dim, scale, version, factor
        width = in_dim * factor**2
        # LayerNorm with torch's own eps 1e-5 (not the tower's 1e-6), also behind a tower that uses RMS norms.
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, out_dim), nn.GELU(), nn.Linear(out_dim, out_dim))

    def _side(self, num_patches: int) -> int:
        side = round(num_patches**0.5)
        if side * side != num_patches or side % self.factor:
            raise ShapeError(
                f'{num_patches} patches per tile',
                expected=f'a square whose side is a multiple of {self.factor}',
                fix='choose a tile size that is a multiple of patch_size x the shuffle factor',
            )
        return side

    def num_tokens(self, num_patches: int) -> int:
        """Q for P patches."""
        return (self._side(num_patches) // self.factor) ** 2

    def shuffle(self, x: Tensor) -> Tensor:
        """(N,P,Dv) -> (N,Q,Dv*factor^2)."""
        side = self._side(x.shape[1])
        return pixel_shuffle(x.unflatten(1, (side, side)), self.factor, self.version).flatten(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(N,P,Dv) -> (N,Q,Dl)."""
        return self.mlp(self.shuffle(x))
