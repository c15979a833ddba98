"""Opening pictures from anywhere: upright RGB, or an error that says what is wrong with the file.

Everything that can be known from a file's header is checked there, before any pixel is decoded.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
from collections.abc import Iterator
from typing import IO

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from mmft.errors import DataError

__all__ = ['MAX_PIXELS', 'MAX_SIDE', 'ImageSource', 'image_size', 'load_image', 'to_rgb']

MAX_PIXELS = 89_478_485
"""Largest picture (width x height) decoded unless a call says otherwise: the size at which Pillow begins to warn."""

MAX_SIDE = 65_535
"""Longest side of a picture that is decoded: the longest a JPEG can have."""

ImageSource = str | os.PathLike | bytes | IO[bytes] | Image.Image

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LYING = (5, 6, 7, 8)  # EXIF orientations that swap width and height
_TOO_LARGE = 'shrink the picture, or raise max_pixels (a setting of the dataset) if it is meant to be so large'
_SAVE_AS_RGB = 'save the picture as 8-bit RGB'


def load_image(source: ImageSource, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Open a picture as RGB: turned as its EXIF data says, and the first frame if it is animated.

    Transparency is dropped, not blended, as the original InternVL and LLaVA pipelines do. 16-bit greys keep their high
    byte. Loading the result once more changes nothing.

    Args:
        source: path, encoded bytes, binary file object or PIL image (which is not changed).
        max_pixels: width x height above which a picture is refused, from its header, before anything is decoded.

    Raises:
        DataError: no such file, not a picture, truncated, too large, or a pixel format that has no RGB reading.

    >>> load_image(Image.new('L', (4, 3), 128)).mode
    'RGB'
    """
    with _header(source, max_pixels) as (image, name):
        turn = _UPRIGHT.get(_orientation(image))
        try:
            with _own_rules(max_pixels):
                image.load()
            rgb = to_rgb(image)
            rgb = rgb if turn is None else rgb.transpose(turn)
        except MemoryError:
            raise
        except DataError as error:
            raise error.at(name) from None
        except Exception as error:  # a damaged file raises whatever its decoder stumbles over
            raise DataError(
                f'this picture breaks off or is damaged: {error}',
                file=name,
                expected=f'a whole {image.format or "picture"} of {image.width}x{image.height} pixels',
                fix='fetch or export the file again',
            ) from error
    if rgb is not source:
        rgb.info = {}
    return rgb


@contextlib.contextmanager
def _own_rules(max_pixels: int) -> Iterator[None]:
    """Pillow refuses a picture that breaks off, and lets those pass that ``max_pixels`` allows.

    Some libraries (lmdeploy 0.18, when it is imported) tell it, for the whole process, to fill the rest with grey. Its
    own limit of pixels is the process's too, and is raised, never lowered: it also guards pictures inside a file (ICO).
    """
    kept, limit = ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    Image.MAX_IMAGE_PIXELS = None if limit is None else max(limit, max_pixels)
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = kept, limit


def image_size(source: ImageSource, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(width, height) that ``load_image(source)`` will have, read from the header: nothing is decoded.

    Raises:
        DataError: as ``load_image``, except for damage that only decoding finds.

    >>> image_size(Image.new('RGB', (4, 3)))
    (4, 3)
    """
    with _header(source, max_pixels) as (image, _):
        width, height = image.size
        return (height, width) if _orientation(image) in _LYING else (width, height)


def to_rgb(image: Image.Image) -> Image.Image:
    """The picture in mode RGB (itself if it is). Alpha is dropped; 16-bit greys are scaled, where Pillow may clip them.

    Raises:
        DataError: float or 32-bit integer pixels, whose range nothing tells, or a mode without a conversion to RGB.
    """
    if image.mode == 'RGB':
        return image
    if image.mode.startswith('I'):  # I;16 and its byte orders, and I, as which some 16-bit formats are opened
        grey = np.asarray(image)
        low, high = int(grey.min()), int(grey.max())
        if low < 0 or high > 65535:
            raise DataError(f'pixels from {low} to {high}', expected='8 or 16 bits per channel', fix=_SAVE_AS_RGB)
        return Image.fromarray((grey >> 8).astype(np.uint8)).convert('RGB')
    if image.mode == 'F':
        raise DataError('float pixels', expected='8 or 16 bits per channel', fix=_SAVE_AS_RGB)
    if 'transparency' in image.info:  # it is dropped anyway; Pillow would warn about some of its forms
        image = image.copy()
        del image.info['transparency']
    try:
        return image.convert('RGB')
    except ValueError as error:
        raise DataError(f'pixel mode {image.mode}: {error}', expected='RGB', fix=_SAVE_AS_RGB) from error


@contextlib.contextmanager
def _header(source: ImageSource, max_pixels: int) -> Iterator[tuple[Image.Image, str]]:
    """The picture, opened but not decoded, and a name for it in messages."""
    if isinstance(source, Image.Image):
        name = getattr(source, 'filename', '') or '<PIL image>'
        _check_size(source, name, max_pixels)
        yield source, name
        return
    with contextlib.ExitStack() as stack:
        if isinstance(source, (bytes, bytearray, memoryview)):
            name, stream = f'<{len(source)} bytes>', io.BytesIO(source)
        elif hasattr(source, 'read'):
            name, stream = str(getattr(source, 'name', '<stream>')), source
        elif not isinstance(source, (str, os.PathLike)):
            raise DataError(
                f'a {type(source).__name__} as a picture', expected='a path, bytes, an open file or a PIL picture'
            )
        else:
            name = os.fspath(source)
            stream = stack.enter_context(_open_file(name))
        image = _identify(stream, name, max_pixels)
        _check_size(image, name, max_pixels)
        yield image, name


def _open_file(path: str) -> IO[bytes]:
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # opening a named pipe waits for ever for a writer
            raise DataError(
                'no regular file but a named pipe, a socket or a device',
                file=path,
                expected='a picture file',
                fix='save the picture as a file',
            )
        return open(path, 'rb')
    except FileNotFoundError:
        raise DataError('no such picture', file=path, fix='check image_root and the path in the annotation') from None
    except IsADirectoryError:
        raise DataError('a directory', file=path, expected='a picture file', fix='name a file in it') from None
    except DataError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise DataError(f'cannot be opened: {error}', file=path, expected='a readable picture file') from error


def _identify(stream: IO[bytes], name: str, max_pixels: int) -> Image.Image:
    expected = 'a picture file (JPEG, PNG, WebP, GIF, BMP, TIFF, ...)'
    try:
        with _own_rules(max_pixels):
            image = Image.open(stream)
    except UnidentifiedImageError:
        head = b''
        with contextlib.suppress(OSError):  # a stream that cannot go back
            stream.seek(0)
            head = stream.read(16)
        what = f'not a picture that Pillow knows: it begins with {head!r}' if head else 'an empty file'
        raise DataError(what, file=name, expected=expected, fix='fetch or export the file again') from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(str(error), file=name, expected=_at_most(max_pixels), fix=_TOO_LARGE) from error
    except MemoryError:
        raise
    except Exception as error:
        raise DataError(f'not a readable picture: {error}', file=name, expected=expected, fix='replace it') from error
    if image.format == 'EPS':
        raise DataError('PostScript, which is a program', file=name, expected=expected, fix='export it as PNG')
    return image


def _check_size(image: Image.Image, name: str, max_pixels: int) -> None:
    width, height = image.size
    if min(width, height) < 1:
        raise DataError(f'a picture of {width}x{height} pixels', file=name, expected='at least 1x1')
    if max(width, height) > MAX_SIDE:
        raise DataError(
            f'a picture of {width}x{height} pixels',
            file=name,
            expected=f'sides of at most {MAX_SIDE:,} pixels',
            fix='shrink or cut the picture',
        )
    if width * height > max_pixels:
        raise DataError(
            f'a picture of {width}x{height} pixels',
            file=name,
            expected=_at_most(max_pixels),
            fix=_TOO_LARGE,
        )


def _at_most(max_pixels: int) -> str:
    return f'at most {max_pixels:,} pixels in all'


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation (1 is upright), from the header only.

    A broken EXIF block does not make a good picture bad: it counts as upright.
    """
    if image.format == 'TIFF':
        return 1  # Pillow turns TIFFs itself, and gives their size turned
    try:
        # Not image.getexif(): for PNG that decodes the pixels, in search of data that come after them.
        return Image.Image.getexif(image).get(_ORIENTATION_TAG, 1)
    except Exception:
        return 1
