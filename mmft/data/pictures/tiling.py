"""Stretching a picture, laying it on a canvas of tiles and cutting that: with ``_tiling.c`` if built, else with Pillow.

Both give the same pixels, those of ``Image.resize(..., BICUBIC)`` of Pillow 13, on which the reference numbers of the
original InternVL were made. Pillow before 13 always resamples rows first and columns second; 13 turns that round for
some sizes, which moves 8-bit results by a few steps. ``columns_first`` is that rule, so tiles do not depend on which
Pillow is installed.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

__all__ = [
    'Place',
    'columns_first',
    'cut_tiles',
    'native',
    'place_native',
    'place_pillow',
    'place_tiles',
    'resize',
]

_STRIP = 64  # rows of a picture that Pillow keeps in several blocks are handed over in strips this high


class Place(NamedTuple):
    """How a picture comes to lie on a canvas of ``columns x rows`` tiles, whose other pixels stay black.

    Attributes:
        width, height: what the picture is stretched to, px.
        left, top: of its corner on the canvas, px; negative where it is cropped.
        columns, rows: the canvas, in tiles.
    """

    width: int
    height: int
    left: int
    top: int
    columns: int
    rows: int

    @property
    def tiles(self) -> int:
        """How many tiles the canvas has."""
        return self.columns * self.rows


def place_tiles(image: Image.Image, places: Sequence[Place], size: int) -> torch.Tensor:
    """Lay an RGB picture on one or two canvases and cut them into tiles of size x size pixels, row by row.

    Returns:
        (T,3,size,size) uint8, the tiles of the first canvas, then those of the second.
    """
    cut = place_pillow if native() is None else place_native
    return cut(image, places, size)


def cut_tiles(image: Image.Image, columns: int, rows: int, size: int, thumbnail: bool = False) -> torch.Tensor:
    """Stretch an RGB picture to columns x rows tiles of size x size pixels and cut it, row by row.

    Returns:
        (T,3,size,size) uint8, T = columns * rows, plus one at the end for the whole picture if ``thumbnail``.
    """
    places = [Place(columns * size, rows * size, 0, 0, columns, rows), Place(size, size, 0, 0, 1, 1)]
    return place_tiles(image, places[: 1 + thumbnail], size)


def columns_first(width: int, height: int, new_width: int, new_height: int) -> bool:
    """Whether Pillow 13 resamples columns before rows, which it does where the height shrinks far more than the width.

    >>> columns_first(1000, 2000, 448, 448), columns_first(2000, 1000, 448, 448)
    (True, False)
    """
    return new_height < height and height - new_height > 2 * (width - new_width)


def resize(image: Image.Image, width: int, height: int) -> Image.Image:
    """Bicubic ``image.resize((width, height))`` as Pillow 13 does it, with any Pillow."""
    if columns_first(*image.size, width, height):
        image = image.resize((image.width, height), Image.Resampling.BICUBIC)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def place_pillow(image: Image.Image, places: Sequence[Place], size: int) -> torch.Tensor:
    """``place_tiles`` with Pillow alone."""
    cut = []
    for place in places:
        canvas = Image.new('RGB', (place.columns * size, place.rows * size))
        canvas.paste(resize(image, place.width, place.height), (place.left, place.top))
        pixels = torch.from_numpy(np.array(canvas))
        blocks = pixels.view(place.rows, size, place.columns, size, 3).permute(0, 2, 4, 1, 3)
        cut.append(blocks.reshape(place.tiles, 3, size, size))
    return torch.cat(cut)


class _Place(ctypes.Structure):
    """``Place`` as the kernel takes it."""

    _fields_ = [(name, ctypes.c_int) for name in (*Place._fields, 'flags')]


def place_native(image: Image.Image, places: Sequence[Place], size: int, *, vectors: bool = True) -> torch.Tensor:
    """``place_tiles`` with the compiled kernel, several times as fast. Other Python threads run meanwhile.

    ``vectors=False`` takes the plain C code of machines without AVX2.
    """
    library = native()
    width, height = image.size
    made = [_Place(*p, columns_first(width, height, p.width, p.height) + (0 if vectors else 2)) for p in places]
    tiles = torch.zeros(sum(p.tiles for p in places), 3, size, size, dtype=torch.uint8)
    array = (_Place * len(made))(*made)
    tiler = library.mmft_tiler_place(width, height, array, len(made), size, tiles.data_ptr())
    if not tiler:
        raise MemoryError(f'tiling a picture of {width}x{height} pixels')
    try:
        for address, count, _owner in _pixel_rows(image):
            library.mmft_tiler_feed(tiler, address, count)
    finally:
        library.mmft_tiler_close(tiler)
    return tiles


@functools.cache
def native() -> ctypes.CDLL | None:
    """The compiled kernel, or None where it was not built (no C compiler at installation) or from another version."""
    spec = importlib.util.find_spec('mmft.data.pictures._tiling')
    if spec is None or spec.origin is None:
        return None
    try:
        library = ctypes.CDLL(spec.origin)
        library.mmft_tiler_place  # noqa: B018
    except (OSError, AttributeError):  # built for another platform, or from an older source
        return None
    pointer, number = ctypes.c_void_p, ctypes.c_int
    library.mmft_tiler_place.argtypes = [number, number, pointer, number, number, pointer]
    library.mmft_tiler_place.restype = pointer
    library.mmft_tiler_feed.argtypes, library.mmft_tiler_feed.restype = [pointer, pointer, number], None
    library.mmft_tiler_close.argtypes, library.mmft_tiler_close.restype = [pointer], None
    return library


def _pixel_rows(image: Image.Image) -> Iterator[tuple[int, int, object]]:
    """(address, number of rows, owner to keep alive) of four-byte pixels, from top to bottom."""
    image.load()
    shared = _shared_pixels(image)
    if shared is not None:
        yield shared[0], image.height, shared[1]
        return
    for top in range(0, image.height, _STRIP):
        strip = image.crop((0, top, image.width, min(top + _STRIP, image.height)))
        shared = _shared_pixels(strip)
        if shared is None:
            data = strip.tobytes('raw', 'RGBX')
            shared = ctypes.cast(data, ctypes.c_void_p).value, data
        yield shared[0], strip.height, shared[1]


class _ArrowArray(ctypes.Structure):
    """The C struct of the Arrow C data interface, https://arrow.apache.org/docs/format/CDataInterface.html."""


_ArrowArray._fields_ = [
    *((name, ctypes.c_int64) for name in ('length', 'null_count', 'offset', 'n_buffers', 'n_children')),
    ('buffers', ctypes.POINTER(ctypes.c_void_p)),
    ('children', ctypes.POINTER(ctypes.POINTER(_ArrowArray))),
    *((name, ctypes.c_void_p) for name in ('dictionary', 'release', 'private_data')),
]

_capsule_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ('PyCapsule_GetPointer', ctypes.pythonapi)
)


def _shared_pixels(image: Image.Image) -> tuple[int, object] | None:
    """Address and owner of the pixels where they lie, without a copy; None if Pillow holds them in several blocks.

    Since 11.2 Pillow shows an RGB picture as an Arrow array of lists of four bytes.
    """
    try:
        _, capsule = image.__arrow_c_array__()
    except (AttributeError, ValueError):
        return None
    array = _ArrowArray.from_address(_capsule_pointer(capsule, b'arrow_array'))
    if array.n_children != 1 or array.offset or array.children[0].contents.length != image.width * image.height * 4:
        return None
    return array.children[0].contents.buffers[1], capsule
