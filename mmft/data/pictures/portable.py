"""Which pictures every program reads alike, and how the others are written so that it does.

Programs differ in what they make of EXIF orientation, transparency, 16 bits, CMYK and animation. What has any of these
is handed on as the upright 8-bit RGB that training saw: as PNG, or, a photo that is merely turned, as JPEG of high
quality, since its PNG would be ten times as large and beyond what servers accept.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from mmft.data.pictures.loading import MAX_PIXELS, load_image
from mmft.data.pictures.pillow_settings import pillow_settings
from mmft.data.pictures.transparency import WHITE

__all__ = ['portable', 'portable_kind']

_PLAIN = ('JPEG', 'PNG', 'WEBP')
_METADATA = (b'tEXt', b'zTXt', b'iTXt', b'iCCP', b'eXIf')
_PHOTOS = ('JPEG', 'MPO')  # MPO: JPEGs of phones, with a second picture behind the first
_ORIENTATION = 0x0112  # of EXIF


def portable(
    source: str | os.PathLike | bytes, background: str | Sequence[int] | None = WHITE
) -> tuple[str, bytes, tuple[int, int]]:
    """(``jpeg``, ``png`` or ``webp``, the file to hand on, its upright size) of a picture: a path, or encoded bytes.

    Args:
        background: of the model that will see it, as of ``load_image``.

    Raises:
        DataError: no picture, or a damaged one.
    """
    upright = load_image(source, background=background)
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    with pillow_settings(MAX_PIXELS), Image.open(io.BytesIO(data)) as image:
        kind, same = portable_kind(image)
    if same and kind == 'png':
        data = _without_metadata(data)
    elif not same:
        buffer = io.BytesIO()
        options = {'quality': 95, 'subsampling': 0} if kind == 'jpeg' else {'compress_level': 1}
        upright.save(buffer, kind, **options)
        data = buffer.getvalue()
    return kind, data, upright.size


def _without_metadata(png: bytes) -> bytes:
    """The same pixels: texts and colour profiles may be longer than other programs allow, and none looks at them."""
    kept, at = [png[:8]], 8
    while at < len(png):
        end = at + 12 + int.from_bytes(png[at : at + 4], 'big')
        if png[at + 4 : at + 8] not in _METADATA:
            kept.append(png[at:end])
        at = end
    return b''.join(kept)


def portable_kind(image: Image.Image) -> tuple[str, bool]:
    """(the format to hand an opened file on in, whether it can stay as it is); no pixel is decoded."""
    plain = image.mode in ('RGB', 'L') and 'transparency' not in image.info
    same = plain and image.format in _PLAIN and not getattr(image, 'is_animated', False) and _is_upright(image)
    if plain and image.format in _PHOTOS:
        return 'jpeg', same
    return image.format.lower() if same else 'png', same


def _is_upright(image: Image.Image) -> bool:
    try:
        return Image.Image.getexif(image).get(_ORIENTATION, 1) == 1
    except Exception:  # a broken block of EXIF data, which not every program takes as lightly as we do
        return False
