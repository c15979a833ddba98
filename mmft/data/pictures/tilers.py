"""Image processors: a picture becomes the square tiles that a vision tower takes.

``DynamicTiler`` (InternVL), ``AnyResTiler`` and ``OneVisionTiler`` (LLaVA-NeXT and OneVision, in a file of their own),
and three that make one tile of every picture: ``Resize``, ``PadSquare`` and ``CenterCrop``.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from mmft.checks import check_counts
from mmft.data.pictures.anyres import AnyResTiler, OneVisionTiler
from mmft.data.pictures.image_processor import ImageProcessor
from mmft.data.pictures.loading import MAX_PIXELS, image_size, load_image, to_rgb
from mmft.data.pictures.padding import padded_square, padding
from mmft.data.pictures.tiling import Place, cut_tiles, place_tiles
from mmft.errors import ConfigError, DataError
from mmft.registry import IMAGE_PROCESSORS
from mmft.words import clipped

__all__ = [
    'MAX_PIXELS',
    'AnyResTiler',
    'CenterCrop',
    'DynamicTiler',
    'ImageProcessor',
    'OneVisionTiler',
    'PadSquare',
    'Resize',
    'image_size',
    'load_image',
    'to_rgb',
]


_MOST_TILES = 256
"""Of one picture; the time to list the grids grows with the cube."""


@IMAGE_PROCESSORS.register_module()
class DynamicTiler(ImageProcessor):
    """InternVL's dynamic tiling: stretch to the grid nearest in aspect ratio, cut it, and add the whole as a thumbnail.

    Same grids and pixels as ``dynamic_preprocess`` of OpenGVLab/InternVL (internvl_chat/internvl/train/dataset.py).

    Args:
        min_tiles, max_tiles: bounds of columns x rows, the thumbnail not counted.
        tile_size: side S of a tile in pixels.
        thumbnail: add the whole picture, shrunk to one tile, as the last tile, unless there is only one anyway.

    >>> tiler = DynamicTiler(max_tiles=6)
    >>> tiler.grid(800, 600), tiler.num_tiles(800, 600)
    ((3, 2), 7)
    >>> tuple(tiler(Image.new('RGB', (800, 600))).shape)
    (7, 3, 448, 448)
    """

    def __init__(self, min_tiles: int = 1, max_tiles: int = 12, tile_size: int = 448, thumbnail: bool = True) -> None:
        super().__init__(tile_size)
        check_counts('DynamicTiler', min_tiles=min_tiles, max_tiles=max_tiles)
        if min_tiles > max_tiles:
            raise ConfigError(
                f'DynamicTiler: min_tiles {min_tiles} with max_tiles {max_tiles}',
                expected='1 <= min_tiles <= max_tiles',
                fix='the original models use 1 and 6 or 12',
            )
        if max_tiles > _MOST_TILES:
            raise ConfigError(f'DynamicTiler: max_tiles {clipped(max_tiles, 20)}', expected=f'at most {_MOST_TILES}')
        self.min_tiles, self.max_tiles, self.thumbnail = min_tiles, max_tiles, thumbnail

    def grid(self, width: int, height: int, max_tiles: int | None = None) -> tuple[int, int]:
        """(columns, rows) whose ratio is nearest to width / height.

        Among equally near ones the first in ``candidate_grids`` stays, unless the picture has more than half the pixels
        of a later one. ``max_tiles`` takes the place of the limit for this call (see ``share``); where it leaves
        nothing to choose the grid is (1, 1).
        """
        self.check_picture(width, height, max_tiles)
        max_tiles = self.max_tiles if max_tiles is None else max_tiles
        ratio, area = width / height, width * height
        best, nearest = (1, 1), float('inf')
        for columns, rows in candidate_grids(self.min_tiles, max_tiles):
            distance = abs(ratio - columns / rows)
            roomy = area > 0.5 * self.tile_size * self.tile_size * columns * rows
            if distance < nearest or (distance == nearest and roomy):
                best, nearest = (columns, rows), distance
        return best

    def num_tiles(self, width: int, height: int, max_tiles: int | None = None) -> int:
        count = super().num_tiles(width, height, max_tiles)
        return count + 1 if self.thumbnail and count > 1 else count

    def tile_counts(self, max_tiles: int | None = None) -> list[int]:
        counts = range(self.min_tiles, (max_tiles or self.max_tiles) + 1)
        return [n + 1 if self.thumbnail and n > 1 else n for n in counts] or [1]

    def __call__(self, image: Image.Image, max_tiles: int | None = None) -> torch.Tensor:
        columns, rows = self.grid(*image.size, max_tiles)
        return cut_tiles(to_rgb(image), columns, rows, self.tile_size, self.thumbnail and columns * rows > 1)

    def to_dict(self) -> dict[str, Any]:
        return {
            'type': 'DynamicTiler',
            'min_tiles': self.min_tiles,
            'max_tiles': self.max_tiles,
            'tile_size': self.tile_size,
            'thumbnail': self.thumbnail,
        }


@functools.lru_cache(maxsize=64)
def candidate_grids(min_tiles: int, max_tiles: int) -> tuple[tuple[int, int], ...]:
    """All (columns, rows) with min_tiles <= columns x rows <= max_tiles, in the order in which the original tries them.

    It sorts a set by area, so inside one area the order is the set's, which follows from hashes and from the order of
    insertion. Ties between ratios are decided by it: it is part of the model, and built here in the same way.

    >>> candidate_grids(1, 4)
    ((1, 1), (1, 2), (2, 1), (3, 1), (1, 3), (4, 1), (1, 4), (2, 2))
    """
    grids = set()
    for side in range(min_tiles, max_tiles + 1):
        for columns in range(1, side + 1):
            for rows in range(1, side + 1):
                if min_tiles <= columns * rows <= max_tiles:
                    grids.add((columns, rows))
    return tuple(sorted(grids, key=lambda grid: grid[0] * grid[1]))


class _OneTile(ImageProcessor):
    """Every picture becomes one square tile."""

    def grid(self, width: int, height: int, max_tiles: int | None = None) -> tuple[int, int]:
        self.check_picture(width, height, max_tiles)
        return 1, 1


@IMAGE_PROCESSORS.register_module()
class Resize(_OneTile):
    """The whole picture stretched to one square tile.

    >>> tuple(Resize(tile_size=224)(Image.new('RGB', (30, 20))).shape)
    (1, 3, 224, 224)
    """

    def __init__(self, tile_size: int = 448) -> None:
        super().__init__(tile_size)

    def __call__(self, image: Image.Image, max_tiles: int | None = None) -> torch.Tensor:
        return cut_tiles(to_rgb(image), 1, 1, self.tile_size)

    def to_dict(self) -> dict[str, Any]:
        return {'type': 'Resize', 'tile_size': self.tile_size}


@IMAGE_PROCESSORS.register_module()
class PadSquare(_OneTile):
    """The picture centred on a square of the mean colour, resized to one tile (InternVL ``pad2square``, LLaVA ``pad``).

    Args:
        tile_size: side S of the tile in pixels.
        mean: the model's pixel mean per channel in 0..1 (ImageNet's for InternVL, CLIP's for LLaVA).

    Raises:
        DataError: the picture is so long that the square would not fit into memory.

    >>> PadSquare(56)(Image.new('RGB', (56, 28)))[0, :, 0, 0].tolist()
    [123, 116, 103]
    """

    def __init__(self, tile_size: int = 448, mean: Sequence[float] = (0.485, 0.456, 0.406)) -> None:
        super().__init__(tile_size)
        self.mean, self.colour = padding('PadSquare', mean)

    def __call__(self, image: Image.Image, max_tiles: int | None = None) -> torch.Tensor:
        return cut_tiles(padded_square(to_rgb(image), self.colour), 1, 1, self.tile_size)

    def to_dict(self) -> dict[str, Any]:
        return {'type': 'PadSquare', 'tile_size': self.tile_size, 'mean': list(self.mean)}


@IMAGE_PROCESSORS.register_module()
class CenterCrop(_OneTile):
    """The picture with its shorter side shrunk to one tile, and the middle of the longer one (CLIP's own processor).

    What lies at the ends of the longer side is not seen; LLaVA's ``image_aspect_ratio`` other than ``pad``.

    Raises:
        DataError: the picture is so thin that what is cut away would not fit into memory.

    >>> tuple(CenterCrop(tile_size=224)(Image.new('RGB', (300, 200))).shape)
    (1, 3, 224, 224)
    """

    def __init__(self, tile_size: int = 336) -> None:
        super().__init__(tile_size)

    def __call__(self, image: Image.Image, max_tiles: int | None = None) -> torch.Tensor:
        size, short, long = self.tile_size, min(image.size), max(image.size)
        length = size * long // short
        if length * size > 4 * MAX_PIXELS:
            raise DataError(
                f'a picture of {image.width}x{image.height} pixels, whose longer side would become {length} pixels',
                expected=f'at most {4 * MAX_PIXELS:,} pixels after resizing',
                fix='cut the picture, or use PadSquare',
            )
        width, height = (length, size) if image.width > image.height else (size, length)
        place = Place(width, height, -((width - size) // 2), -((height - size) // 2), 1, 1)
        return place_tiles(to_rgb(image), [place], size)

    def to_dict(self) -> dict[str, Any]:
        return {'type': 'CenterCrop', 'tile_size': self.tile_size}
