"""Image processors: a picture becomes the square tiles that a vision tower takes.

An image processor decides from width and height alone how many tiles a picture becomes, so token counts are known
before anything is decoded. Tiles leave here as uint8; the model normalises them on its device.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from mmft.data.loading import MAX_PIXELS, image_size, load_image, to_rgb
from mmft.data.tiling import cut_tiles
from mmft.errors import ConfigError, DataError
from mmft.registry import IMAGE_PROCESSORS

__all__ = ['MAX_PIXELS', 'DynamicTiler', 'ImageProcessor', 'PadSquare', 'Resize', 'image_size', 'load_image', 'to_rgb']


class ImageProcessor(ABC):
    """Turns a picture into uint8 tiles (T,3,S,S). Subclasses say which grid, ``__call__`` and the counts follow it.

    Args:
        tile_size: side S of a tile in pixels.
    """

    def __init__(self, tile_size: int) -> None:
        if tile_size < 1:
            raise ConfigError(f'tile_size={tile_size}', expected='at least 1', fix='the InternVL2 models take 448')
        self.tile_size = tile_size

    @abstractmethod
    def grid(self, width: int, height: int, max_tiles: int | None = None) -> tuple[int, int]:
        """(columns, rows) for a picture of width x height pixels; ``max_tiles`` narrows the limit for this call."""

    @abstractmethod
    def __call__(self, image: Image.Image, max_tiles: int | None = None) -> torch.Tensor:
        """Tiles (T,3,S,S) uint8 of a picture; T is ``num_tiles`` of its size."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """The config that builds an equal processor through ``IMAGE_PROCESSORS``."""

    def num_tiles(self, width: int, height: int, max_tiles: int | None = None) -> int:
        """T, the number of tiles of a picture of width x height pixels."""
        columns, rows = self.grid(width, height, max_tiles)
        return columns * rows

    def num_tokens(self, width: int, height: int, tokens_per_tile: int, max_tiles: int | None = None) -> int:
        """Language-model tokens of a picture of width x height pixels."""
        return self.num_tiles(width, height, max_tiles) * tokens_per_tile

    def from_bytes(self, data: bytes, max_tiles: int | None = None) -> torch.Tensor:
        """Tiles (T,3,S,S) uint8 of an encoded picture (JPEG, PNG, ...)."""
        return self(load_image(data), max_tiles)

    def __repr__(self) -> str:
        config = self.to_dict()
        return f'{config.pop("type")}({", ".join(f"{k}={v!r}" for k, v in config.items())})'


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
        if not 1 <= min_tiles <= max_tiles:
            raise ConfigError(
                f'min_tiles={min_tiles}, max_tiles={max_tiles}',
                expected='1 <= min_tiles <= max_tiles',
                fix='the original models use 1 and 6 or 12',
            )
        self.min_tiles, self.max_tiles, self.thumbnail = min_tiles, max_tiles, thumbnail

    def grid(self, width: int, height: int, max_tiles: int | None = None) -> tuple[int, int]:
        """(columns, rows) whose ratio is nearest to width / height.

        Among equally near ones the first in ``candidate_grids`` stays, unless the picture has more than half the pixels
        of a later one. ``max_tiles`` takes the place of the limit for this call (a sample of n pictures may give each
        ``max(1, max_tiles // n)``); where it leaves nothing to choose the grid is (1, 1).
        """
        if max_tiles is None:
            max_tiles = self.max_tiles
        elif max_tiles < 1:
            raise ConfigError(f'max_tiles={max_tiles}', expected='at least 1')
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
        if len(mean) != 3 or not all(0 <= value <= 1 for value in mean):
            raise ConfigError(f'mean={tuple(mean)}', expected='three numbers from 0 to 1')
        self.mean = tuple(float(value) for value in mean)
        self.colour = tuple(int(value * 255) for value in self.mean)

    def __call__(self, image: Image.Image, max_tiles: int | None = None) -> torch.Tensor:
        image, side = to_rgb(image), max(image.size)
        if side * side > 4 * MAX_PIXELS:
            raise DataError(
                f'a picture of {image.width}x{image.height} pixels, which padding would make {side}x{side}',
                expected=f'at most {4 * MAX_PIXELS:,} pixels after padding',
                fix='shrink the picture',
            )
        if image.width != image.height:
            square = Image.new('RGB', (side, side), self.colour)
            square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
            image = square
        return cut_tiles(image, 1, 1, self.tile_size)

    def to_dict(self) -> dict[str, Any]:
        return {'type': 'PadSquare', 'tile_size': self.tile_size, 'mean': list(self.mean)}
