"""A picture padded to a square, as LLaVA does (``expand2square`` of llava/mm_utils.py)."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from mmft.checks import is_number
from mmft.data.pictures.loading import MAX_PIXELS
from mmft.errors import ConfigError, DataError

__all__ = ['padded_square', 'padding']


def padding(name: str, mean: Sequence[float]) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """The mean to pad with, checked, and its colour, rounded down as in the original.

    Args:
        name: of the image processor, for the message.
        mean: per channel, from 0 to 1.
    """
    three = isinstance(mean, Sequence) and len(mean) == 3
    if not three or not all(is_number(value, least=0) and value <= 1 for value in mean):
        raise ConfigError(f'{name}: mean {mean!r}', expected='three numbers from 0 to 1')
    return tuple(float(value) for value in mean), tuple(int(float(value) * 255) for value in mean)


def padded_square(image: Image.Image, colour: tuple[int, ...]) -> Image.Image:
    """An RGB picture in the middle of a square as wide as its longer side.

    Raises:
        DataError: the square would be too large.
    """
    side = max(image.size)
    if side * side > 4 * MAX_PIXELS:
        raise DataError(
            f'a picture of {image.width}x{image.height} pixels, which padding would make {side}x{side}',
            expected=f'at most {4 * MAX_PIXELS:,} pixels after padding',
            fix='shrink the picture',
        )
    if image.width == image.height:
        return image
    square = Image.new('RGB', (side, side), colour)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square
