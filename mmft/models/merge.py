"""``AnyResMerge``: the tokens of a picture's tiles put side by side, as one plane, and read row by row.

The fourth, optional part of a ``VLM``, between projector and slots. Without it tile follows tile.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmft.checks import check_counts
from mmft.errors import ShapeError
from mmft.geometry import arranged_tokens, kept_cells, merge_mode, shrunk, token_side
from mmft.registry import MERGES
from mmft.words import count_of

__all__ = ['AnyResMerge', 'merge_tokens']


@MERGES.register_module()
class AnyResMerge(nn.Module):
    """Base tile, then the plane of the other tiles, row by row (``mm_patch_merge_type`` of LLaVA-NeXT).

    ``AnyResTiler`` cuts the tiles and counts the tokens, by the same rule (``mmft.geometry``).

    Args:
        dim: Dl of the language model; filled in by VLM.
        unpad: leave out the rows or columns that show padding only.
        newline: end each row with a learnt token (and a base that stands alone). Both True is ``spatial_unpad``, both
            False ``spatial``; no image processor counts the tokens of the other two pairs.
        shrink_to: tiles to which a larger plane is shrunk, bilinearly (LLaVA-OneVision: 9; see ``geometry.shrunk``);
            None: none is. ``OneVisionTiler`` counts them.

    >>> merge = AnyResMerge(8)
    >>> merge(torch.zeros(5, 9, 8), [(80, 40)], [(2, 2)]).shape  # base 9; 3 of 6 rows hold a 2:1 picture (4 are kept)
    torch.Size([37, 8])
    """

    def __init__(self, dim: int, unpad: bool = True, newline: bool = True, shrink_to: int | None = None) -> None:
        super().__init__()
        check_counts('AnyResMerge', dim=dim, **({} if shrink_to is None else {'shrink_to': shrink_to}))
        # Whether rows end with a token is kept apart: under ZeRO-3 reading the weight gathers it, on this rank alone.
        self.dim, self.unpad, self.newline, self.shrink_to = dim, unpad, newline, shrink_to
        self.image_newline = nn.Parameter(torch.randn(dim) * dim**-0.5) if newline else None

    @property
    def mode(self) -> str:
        """The mode of the ``AnyResTiler`` that goes with it.

        Raises:
            ConfigError: no mode does.
        """
        return merge_mode(self.unpad, self.newline)

    def check(self, tokens_per_tile: int) -> None:
        """That samples can be made for it, before the first step.

        Raises:
            ConfigError: no image processor counts its tokens.
            ShapeError: the tokens of a tile form no square.
        """
        _ = self.mode
        token_side(tokens_per_tile)

    def num_tokens(
        self, sizes: Sequence[tuple[int, int]], grids: Sequence[tuple[int, int]], tokens_per_tile: int
    ) -> list[int]:
        """Tokens of each picture, from its size and grid."""
        return [
            arranged_tokens(size, grid, tokens_per_tile, self.unpad, self.newline, self.shrink_to)
            for size, grid in zip(sizes, grids, strict=True)
        ]

    def forward(self, features: Tensor, sizes: Sequence[tuple[int, int]], grids: Sequence[tuple[int, int]]) -> Tensor:
        """Put M pictures in order.

        Args:
            features: (N,Q,Dl), the tiles of all pictures in order, Q a square.
            sizes: (width, height) of each picture, px.
            grids: (columns, rows) of each; its tiles are the base and columns x rows more.

        Returns:
            (tokens of all pictures, Dl).

        Raises:
            ShapeError: the grids do not make up N tiles, or Q is no square.
        """
        counts = [1 + columns * rows for columns, rows in grids]
        if sum(counts) != len(features) or len(sizes) != len(grids):
            raise ShapeError(
                f'{count_of(len(features), "tile")} for {count_of(len(grids), "grid")} of '
                f'{count_of(sum(counts), "tile")} and {count_of(len(sizes), "picture size")}',
                expected='for each picture one tile and those of its grid',
                fix='pass image_sizes and image_grids of the samples in the order of their pictures',
            )
        pictures = zip(features.split(counts), sizes, grids, strict=True)
        return torch.cat([part for tiles, size, grid in pictures for part in (tiles[0], self._rows(tiles, size, grid))])

    def _rows(self, tiles: Tensor, size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
        """(T,Q,Dl) -> (tokens behind the base, Dl)."""
        (columns, rows), side = grid, token_side(tiles.shape[1])
        if columns * rows:
            plane = tiles[1:].view(rows, columns, side, side, -1).transpose(1, 2).flatten(2, 3).flatten(0, 1)
            if self.unpad:
                left, top, right, bottom = kept_cells(*size, columns * side, rows * side)
                plane = plane[top:bottom, left:right]
            plane = _resized(plane, *shrunk(plane.shape[1], plane.shape[0], side, self.shrink_to))
        else:
            plane = tiles.new_zeros(1, 0, tiles.shape[-1])
        if self.image_newline is not None:
            # In the graph even where no row is left: every rank must have a gradient for it.
            ends = self.image_newline.to(plane.dtype).expand(len(plane), 1, -1)
            plane = torch.cat([plane, ends], dim=1)
        return plane.flatten(0, 1)


def _resized(plane: Tensor, across: int, down: int) -> Tensor:
    """(rows,columns,Dl) -> (down,across,Dl)."""
    if plane.shape[:2] == (down, across):
        return plane
    # Contiguous, as in the original: another order in memory is another kernel, and rounds otherwise.
    channels = plane.permute(2, 0, 1).contiguous()[None]
    return nn.functional.interpolate(channels, (down, across), mode='bilinear')[0].permute(1, 2, 0)


def merge_tokens(
    merge: AnyResMerge | None, features: Tensor, image_sizes: Tensor | None, image_grids: Tensor | None
) -> Tensor:
    """(N,Q,Dl) -> (tokens of all pictures, Dl): in the order of ``merge``, or tile after tile without one.

    Args:
        image_sizes, image_grids: (M,2) int64 of a batch whose encoder arranges tiles, else None.

    Raises:
        ShapeError: the model arranges tiles and the encoder does not, or the other way round.
    """
    if (merge is None) != (image_grids is None):
        whose = 'the batch has image_grids, but the model no merge'
        raise ShapeError(
            whose if merge is None else 'the model has a merge, but the batch no image_grids',
            expected='both or neither',
            fix="AnyResTiler(mode='spatial_unpad') in the encoder goes with merge=dict(type='AnyResMerge') in the "
            "model, mode='flat' with no merge",
        )
    if merge is None:
        return features.flatten(0, 1)
    if image_sizes is None:
        raise ShapeError(
            'the batch has image_grids, but no image_sizes',
            expected='both, (M,2) each',
            fix='take both from the samples of one encoder',
        )
    return merge(features, image_sizes.tolist(), image_grids.tolist())
