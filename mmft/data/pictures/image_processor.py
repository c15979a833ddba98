"""``ImageProcessor``: the contract of what turns a picture into tiles.

An image processor decides from width and height alone how many tiles a picture becomes, so token counts are known
before anything is decoded. Tiles leave here as uint8; the model normalises them on its device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from numbers import Integral
from typing import Any

import torch
from PIL import Image

from mmft.checks import check_counts
from mmft.data.pictures.loading import MAX_PIXELS, load_image
from mmft.errors import DataError
from mmft.user_code import name_of

__all__ = ['ImageProcessor']


class ImageProcessor(ABC):
    """Turns a picture into uint8 tiles (T,3,S,S). Subclasses say which grid, ``__call__`` and the counts follow it.

    Args:
        tile_size: side S of a tile in pixels.

    Attributes:
        arranges: whether the tokens of the tiles are put in the order of one plane (``AnyResMerge``): the model then
            needs the size and the grid of each picture, which samples carry as ``image_sizes`` and ``image_grids``.
        max_tiles: most tiles of a sample, as ``grid`` counts them, for its pictures to share; None: no limit.
    """

    arranges: bool = False
    max_tiles: int | None = None

    def __init__(self, tile_size: int) -> None:
        check_counts(type(self).__name__, tile_size=tile_size)
        self.tile_size = tile_size

    @abstractmethod
    def grid(self, width: int, height: int, max_tiles: int | None = None) -> tuple[int, int]:
        """(columns, rows) for a picture of width x height pixels; ``max_tiles`` narrows the limit for this call."""

    def check_picture(self, width: int, height: int, max_tiles: int | None = None) -> None:
        """What ``grid`` was given, before it divides by it.

        Raises:
            DataError: a picture without pixels.
            ConfigError: ``max_tiles`` is no whole number from 1.
        """
        # Integral: sizes may come out of a numpy array.
        if not (isinstance(width, Integral) and isinstance(height, Integral) and width >= 1 and height >= 1):
            raise DataError(
                f'a picture of {width!r} x {height!r} pixels',
                expected='two whole numbers from 1',
                fix='leave the picture out, or correct its size',
            )
        if max_tiles is not None:
            check_counts(type(self).__name__, max_tiles=max_tiles)

    def share(self, num_images: int) -> int | None:
        """The ``max_tiles`` of each picture of a sample: equal parts, at least 1; None: no limit.

        Source: OpenGVLab/InternVL, internvl_chat_finetune.py, line 488.
        """
        return None if self.max_tiles is None else max(1, self.max_tiles // max(1, num_images))

    @abstractmethod
    def __call__(self, image: Image.Image, max_tiles: int | None = None) -> torch.Tensor:
        """Tiles (T,3,S,S) uint8 of a picture; T is ``num_tiles`` of its size."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """The config that builds an equal processor through ``IMAGE_PROCESSORS``."""

    def config(self) -> dict[str, Any]:
        """``to_dict`` with the name by which this very class is found: a subclass may not say it."""
        config = self.to_dict()
        return {**config, 'type': name_of(type(self)) or config.get('type')}

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

    def most_tokens(self, tokens_per_tile: int, max_tiles: int | None = None) -> dict[int, int]:
        """Every number of tiles that a picture can become -> the most tokens that so many tiles are."""
        return {tiles: tiles * tokens_per_tile for tiles in self.tile_counts(max_tiles)}

    def from_bytes(self, data: bytes, max_tiles: int | None = None, max_pixels: int = MAX_PIXELS) -> torch.Tensor:
        """Tiles (T,3,S,S) uint8 of an encoded picture (JPEG, PNG, ...) of at most ``max_pixels``, on white."""
        return self(load_image(data, max_pixels), max_tiles)

    def __repr__(self) -> str:
        config = self.to_dict()
        return f'{config.pop("type")}({", ".join(f"{k}={v!r}" for k, v in config.items())})'
