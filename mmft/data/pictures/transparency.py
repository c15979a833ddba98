"""Transparent pictures: laid on a background colour, as every viewer shows them, or stripped of their alpha.

Below full transparency any colour may lie, since nobody sees it: black, a dilated outline, noise. With the
alpha channel merely dropped, as the originals do, it becomes the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageColor

from mmft.checks import is_whole
from mmft.errors import ConfigError, DataError
from mmft.words import clipped

__all__ = ['WHITE', 'Colour', 'as_colour', 'flattened', 'scaled_key', 'without_alpha']

Colour = tuple[int, int, int]
WHITE: Colour = (255, 255, 255)

_KEY_SCALES = {'L;2': 85, 'L;4': 17}  # what Pillow multiplies samples of fewer bits with


def as_colour(value: str | Sequence[int] | None, name: str = 'background') -> Colour | None:
    """A colour of a config: a name, ``#rrggbb`` or ``[red, green, blue]``; None and ``none`` are None.

    Raises:
        ConfigError: anything else.

    >>> as_colour('white'), as_colour('#ff8000'), as_colour([1, 2, 3]), as_colour(None)
    ((255, 255, 255), (255, 128, 0), (1, 2, 3), None)
    """
    if value is None or value == 'none':
        return None
    found: Any = value
    if isinstance(value, str):
        try:
            found = ImageColor.getrgb(value)
        except ValueError:
            found = None
    three = isinstance(found, Sequence) and not isinstance(found, str) and len(found) == 3
    if not three or not all(is_whole(level, least=0) and level <= 255 for level in found):
        raise ConfigError(
            f'{name} {clipped(repr(value), 80)}',
            expected="the name of a colour, '#rrggbb', [red, green, blue] from 0 to 255, or None to drop alpha",
        )
    return tuple(found)


def scaled_key(image: Image.Image) -> None:
    """Correct the transparent colour of a PNG that has just been opened, and is not decoded.

    Pillow (12.3) scales samples of 2, 4 and 16 bits to 8, and leaves the colour that stands for transparency as it is.
    """
    key, raw = image.info.get('transparency'), image.tile[0][3] if image.format == 'PNG' and image.tile else None
    if isinstance(key, int) and raw in _KEY_SCALES:
        image.info['transparency'] = key * _KEY_SCALES[raw]
    elif isinstance(key, tuple) and raw == 'RGB;16B':
        image.info['transparency'] = tuple(level >> 8 for level in key)


def flattened(image: Image.Image, background: Colour) -> Image.Image:
    """The picture on a background, in mode RGB; pixels that are fully opaque stay as they are.

    Raises:
        DataError: a transparency that does not fit the picture's mode.
    """
    try:
        if image.mode == 'La':  # Pillow converts it to LA only
            image = image.convert('LA')
        if image.mode.startswith('I;16'):
            image = _with_alpha(image)
        opaque = Image.new('RGBA', image.size, (*background, 255))
        return Image.alpha_composite(opaque, image.convert('RGBA')).convert('RGB')
    except (TypeError, ValueError) as error:
        what = f'its transparency {clipped(repr(image.info.get("transparency")), 40)} in mode {image.mode}: {error}'
        raise DataError(what, expected='one that fits the mode', fix='save the picture again as RGBA') from error


def _with_alpha(grey: Image.Image) -> Image.Image:
    """16-bit greys with a transparent one among them, as LA; Pillow compares with it what it has clipped to 8 bits."""
    values = np.asarray(grey)
    alpha = np.where(values == grey.info['transparency'], 0, 255).astype(np.uint8)
    return Image.merge('LA', [Image.fromarray((values >> 8).astype(np.uint8)), Image.fromarray(alpha)])


def without_alpha(image: Image.Image) -> Image.Image:
    """The same picture, all of it opaque, whatever colours that uncovers; not copied if it is opaque already."""
    if 'transparency' in image.info:  # Pillow would warn about some of its forms
        image = image.copy()
        del image.info['transparency']
    return image.convert('LA') if image.mode == 'La' else image
