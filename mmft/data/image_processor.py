"""``ImageProcessor``: the contract of what turns a picture into tiles.

An image processor decides from width and height alone how many tiles a picture becomes, so token counts are known
before anything is decoded. Tiles leave here as uint8; the model normalises them on its device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from PIL import Image

from mmft.data.loading import load_image
from mmft.errors import ConfigError

__all__ = ['ImageProcessor']


class ImageProcessor(ABC):
    """Turns a picture into uint8 tiles (T,3,S,S). Subclasses say which grid, ``__call__`` and the counts follow it.

    Args:
        tile_size: side S of a tile in pixels.

    Attributes:
        arranges: whether the tokens of the tiles are put in the order of one plane (``AnyResMerge``): the model then
            needs the size and the grid of each picture, which samples carry as ``image_sizes`` and ``image_grids``.
    """

    arranges: bool = False

    def __init__(self, tile_size: int) -> None:
        if tile_size < 1:
            raise ConfigError(
                f'tile_size={tile_size}',
                expected='at least 1',
                fix='the InternVL2 models take 448, CLIP-L/336 takes 336',
            )
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

    def tile_counts(self, max_tiles: int | None = None) -> list[int]:
        """Every number of tiles that a picture can become, rising."""
        return [1]

    def num_tokens(self, width: int, height: int, tokens_per_tile: int, max_tiles: int | None = None) -> int:
        """Language-model tokens of a picture of width x height pixels."""
        return self.num_tiles(width, height, max_tiles) * tokens_per_tile

    def from_bytes(self, data: bytes, max_tiles: int | None = None) -> torch.Tensor:
        """Tiles (T,3,S,S) uint8 of an encoded picture (JPEG, PNG, ...)."""
        return self(load_image(data), max_tiles)

    def __repr__(self) -> str:
        config = self.to_dict()
        return f'{config.pop("type")}({", ".join(f"{k}={v!r}" for k, v in config.items())})'
