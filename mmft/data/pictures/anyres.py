"""``AnyResTiler``, the tiling of LLaVA-NeXT (and LLaVA-1.5-HD): the whole picture, then a grid of tiles of it, padded.
``OneVisionTiler``, the same as LLaVA-OneVision does it.

Same choice of resolution and same pixels as ``process_anyres_image`` of haotian-liu/LLaVA (llava/mm_utils.py).
"""

from __future__ import annotations

import ast
import math
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from mmft.checks import check_counts, is_whole
from mmft.data.pictures.image_processor import ImageProcessor
from mmft.data.pictures.loading import to_rgb
from mmft.data.pictures.padding import padded_square, padding
from mmft.data.pictures.tiling import Place, cut_tiles, place_tiles
from mmft.errors import ConfigError
from mmft.geometry import LLAVA_NEXT_GRIDS, MERGE_MODES, ONEVISION_GRIDS, arranged_tokens, most_tokens
from mmft.registry import IMAGE_PROCESSORS

__all__ = ['AnyResTiler', 'OneVisionTiler', 'select_best_resolution']


@IMAGE_PROCESSORS.register_module()
class AnyResTiler(ImageProcessor):
    """The picture stretched to one tile, the base, then the picture in its own proportions on a grid of tiles.

    Where the grid's proportions are others, the picture lies in the middle and the rest is black.

    Args:
        grid_pinpoints: the resolutions to choose from, (width, height) in px, multiples of ``tile_size``, in the order
            in which ties are decided; also as the string that old LLaVA configs hold. None: ``default_grids``, those of
            LLaVA-NeXT, of 2 to 4 tiles.
        tile_size: side S of a tile in pixels.
        mode: what the model makes of the tiles' tokens. ``spatial_unpad`` (LLaVA-NeXT): one plane, padding left out, a
            learnt token at the end of each row. ``spatial``: one plane, nothing else. Both need
            ``merge=dict(type='AnyResMerge', ...)`` in the model. ``flat`` (LLaVA-1.5-HD): tile after tile.
        max_tiles: most tiles of a sample's grids, bases not counted; several pictures share them, and one that is left
            with too few is shown as its base alone. None, as in the original: every picture gets its grid.

    >>> tiler = AnyResTiler()
    >>> tiler.grid(640, 480), tiler.num_tiles(640, 480), tiler.num_tokens(640, 480, 576)
    ((2, 2), 5, 2340)
    >>> tuple(tiler(Image.new('RGB', (300, 900))).shape)
    (4, 3, 336, 336)
    """

    default_grids = LLAVA_NEXT_GRIDS
    shrink_to: int | None = None

    def __init__(
        self,
        grid_pinpoints: Sequence[Sequence[int]] | str | None = None,
        tile_size: int = 336,
        mode: str = 'spatial_unpad',
        max_tiles: int | None = None,
    ) -> None:
        super().__init__(tile_size)
        if grid_pinpoints is None:
            grid_pinpoints = [(columns * tile_size, rows * tile_size) for columns, rows in self.default_grids]
        self.grid_pinpoints = _pinpoints(type(self).__name__, grid_pinpoints, tile_size)
        if mode not in (*MERGE_MODES, 'flat'):
            raise ConfigError(f'AnyResTiler: mode {mode!r}', expected=f'one of {[*MERGE_MODES, "flat"]}')
        if max_tiles is not None:
            check_counts(type(self).__name__, max_tiles=max_tiles)
        self.mode, self.max_tiles, self.arranges = mode, max_tiles, mode != 'flat'

    def grid(self, width: int, height: int, max_tiles: int | None = None) -> tuple[int, int]:
        """(columns, rows) besides the base; (0, 0) where no pinpoint has so few tiles as ``max_tiles``."""
        self.check_picture(width, height, max_tiles)
        allowed = self._allowed(max_tiles)
        if not allowed:
            return 0, 0
        best = select_best_resolution(width, height, allowed)
        return best[0] // self.tile_size, best[1] // self.tile_size

    def _allowed(self, max_tiles: int | None) -> list[tuple[int, int]]:
        limit = self.max_tiles if max_tiles is None else max_tiles
        return [(w, h) for w, h in self.grid_pinpoints if limit is None or w * h <= limit * self.tile_size**2]

    def num_tiles(self, width: int, height: int, max_tiles: int | None = None) -> int:
        return 1 + super().num_tiles(width, height, max_tiles)

    def tile_counts(self, max_tiles: int | None = None) -> list[int]:
        return sorted({1 + w * h // self.tile_size**2 for w, h in self._allowed(max_tiles)} or {1})

    def num_tokens(self, width: int, height: int, tokens_per_tile: int, max_tiles: int | None = None) -> int:
        if not self.arranges:
            return super().num_tokens(width, height, tokens_per_tile, max_tiles)
        grid = self.grid(width, height, max_tiles)
        return arranged_tokens(
            (width, height), grid, tokens_per_tile, **MERGE_MODES[self.mode], shrink_to=self.shrink_to
        )

    def most_tokens(self, tokens_per_tile: int, max_tiles: int | None = None) -> dict[int, int]:
        if not self.arranges:
            return super().most_tokens(tokens_per_tile, max_tiles)
        rule, counts = {**MERGE_MODES[self.mode], 'shrink_to': self.shrink_to}, {}
        for width, height in self._allowed(max_tiles) or [(0, 0)]:
            grid = (width // self.tile_size, height // self.tile_size)
            tiles, most = 1 + grid[0] * grid[1], most_tokens(grid, tokens_per_tile, **rule)
            counts[tiles] = max(most, counts.get(tiles, 0))
        return counts

    def __call__(self, image: Image.Image, max_tiles: int | None = None) -> torch.Tensor:
        size, (columns, rows) = self.tile_size, self.grid(*image.size, max_tiles)
        places = [Place(size, size, 0, 0, 1, 1)]
        if columns * rows:
            places.append(_centred(*image.size, columns, rows, size))
        return place_tiles(to_rgb(image), places, size)

    def to_dict(self) -> dict[str, Any]:
        return {
            'type': 'AnyResTiler',
            'grid_pinpoints': [list(pair) for pair in self.grid_pinpoints],
            'tile_size': self.tile_size,
            'mode': self.mode,
            'max_tiles': self.max_tiles,
        }


@IMAGE_PROCESSORS.register_module()
class OneVisionTiler(AnyResTiler):
    """LLaVA-OneVision's ``anyres_max_9``: up to 6 x 6 tiles beside the base, their plane shrunk to 9 tiles' tokens.

    Only a picture that is alone in its sample is tiled; each of several is one tile, padded with the mean colour to a
    square. Goes with ``merge=dict(type='AnyResMerge', shrink_to=9)`` in the model.

    Source: LLaVA-VL/LLaVA-NeXT, llava/{mm_utils,train/train,model/llava_arch}.py.

    Args:
        grid_pinpoints, tile_size: as of ``AnyResTiler``. None: ``(1x1),...,(6x6)``.
        shrink_to: as of ``AnyResMerge``.
        mean: the model's pixel mean per channel in 0..1.
        max_tiles: most tiles of a picture's grid, the base not counted; 1: one padded tile in all.

    >>> tiler = OneVisionTiler()
    >>> tiler.grid(2000, 1500), tiler.num_tiles(2000, 1500), tiler.num_tokens(2000, 1500, 729)
    ((6, 4), 25, 7309)
    >>> tuple(tiler(Image.new('RGB', (2000, 1500)), tiler.share(2)).shape), tiler.num_tokens(2000, 1500, 729, 1)
    ((1, 3, 384, 384), 730)
    """

    default_grids = ONEVISION_GRIDS

    def __init__(
        self,
        grid_pinpoints: Sequence[Sequence[int]] | str | None = None,
        tile_size: int = 384,
        shrink_to: int = 9,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        max_tiles: int | None = None,
    ) -> None:
        super().__init__(grid_pinpoints, tile_size, max_tiles=max_tiles)
        check_counts('OneVisionTiler', shrink_to=shrink_to)
        self.shrink_to = shrink_to
        self.mean, self.colour = padding('OneVisionTiler', mean)

    def share(self, num_images: int) -> int | None:
        """None for a picture alone, 1 for each of several."""
        return None if num_images < 2 else 1

    def _allowed(self, max_tiles: int | None) -> list[tuple[int, int]]:
        limit = self.max_tiles if max_tiles is None else max_tiles
        return [] if limit == 1 else super()._allowed(limit)

    def __call__(self, image: Image.Image, max_tiles: int | None = None) -> torch.Tensor:
        if self.grid(*image.size, max_tiles) != (0, 0):
            return super().__call__(image, max_tiles)
        return cut_tiles(padded_square(to_rgb(image), self.colour), 1, 1, self.tile_size)

    def to_dict(self) -> dict[str, Any]:
        config = {**super().to_dict(), 'type': 'OneVisionTiler', 'shrink_to': self.shrink_to, 'mean': list(self.mean)}
        del config['mode']  # there is one
        return config


def _pinpoints(name: str, given: Sequence[Sequence[int]] | str, tile_size: int) -> tuple[tuple[int, int], ...]:
    expected = f'pairs (width, height) of multiples of tile_size={tile_size}, such as ({tile_size}, {2 * tile_size})'
    try:
        pairs = tuple((w, h) for w, h in (ast.literal_eval(given) if isinstance(given, str) else given))
        whole = all(is_whole(v, least=tile_size) and v % tile_size == 0 for pair in pairs for v in pair)
    except (ValueError, TypeError, SyntaxError):
        pairs, whole = (), False
    if not pairs or not whole:
        raise ConfigError(
            f'{name}: grid_pinpoints={given!r}',
            expected=expected,
            fix='set tile_size to the tile side of the vision tower',
        )
    return pairs


def select_best_resolution(width: int, height: int, pinpoints: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The (width, height) that keeps most pixels of a picture, at most its own; of several the one that wastes least.

    Among equals the first stays. Floats, rounded down, as in the original and in transformers: they decide ties.

    >>> select_best_resolution(800, 600, [(336, 672), (672, 336), (672, 672)])
    (672, 672)
    """

    def worth(pinpoint: tuple[int, int]) -> tuple[int, int]:
        scale = min(pinpoint[0] / width, pinpoint[1] / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return kept, kept - pinpoint[0] * pinpoint[1]

    return max(pinpoints, key=worth)


def _centred(width: int, height: int, columns: int, rows: int, size: int) -> Place:
    """The picture as large as it fits on the grid, in the middle.

    Floats, rounded up, as in the original and in transformers: one pixel more or less would be another picture.
    """
    across, down = columns * size, rows * size
    scale_x, scale_y = across / width, down / height
    if scale_x < scale_y:
        new_width, new_height = across, min(math.ceil(height * scale_x), down)
    else:
        new_width, new_height = min(math.ceil(width * scale_y), across), down
    return Place(new_width, new_height, (across - new_width) // 2, (down - new_height) // 2, columns, rows)
