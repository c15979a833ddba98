"""Opening pictures from anywhere: upright RGB, or an error that says what is wrong with the file.

Everything that can be known from a file's header is checked there, before any pixel is decoded.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
from collections.abc import Iterator, Sequence
from typing import IO

import numpy as np
from PIL import Image, ImageChops, UnidentifiedImageError

from mmft.data.pictures.pillow_settings import pillow_settings
from mmft.data.pictures.transparency import WHITE, Colour, as_colour, flattened, scaled_key, without_alpha
from mmft.errors import DataError, first_line
from mmft.words import clipped

__all__ = ['MAX_PIXELS', 'MAX_SIDE', 'ImageSource', 'image_size', 'is_spoilt_without_alpha', 'load_image', 'to_rgb']

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
_WITHOUT_ALPHA = ('F', 'I', 'CMYK', 'YCbCr', 'LAB', 'HSV')  # a transparent colour in their info means nothing
_LYING = (5, 6, 7, 8)  # EXIF orientations that swap width and height
_TOO_LARGE = 'shrink the picture, or raise max_pixels (a setting of the dataset) if it is meant to be so large'
_PROGRAMS = ('EPS', 'IPTC')
"""What Pillow opens with Ghostscript: PostScript, and a container whose content may be that."""

_SAVE_AS_RGB = 'save the picture as 8-bit RGB'
_LONGEST_NAME = 300  # characters of a path in a message


def load_image(
    source: ImageSource, max_pixels: int = MAX_PIXELS, background: str | Sequence[int] | None = WHITE
) -> Image.Image:
    """Open a picture as RGB: turned as its EXIF data says, and the first frame if it is animated.

    What is transparent shows the background. 16-bit greys keep their high byte. Loading the result once more changes
    nothing.

    Args:
        source: path, encoded bytes, binary file object or PIL image (which is not changed).
        max_pixels: width x height above which a picture is refused, from its header, before anything is decoded.
        background: a colour (``as_colour``); None drops alpha, as the original InternVL and LLaVA pipelines do, so
            that whatever colours lie under full transparency become the picture.

    Raises:
        DataError: no such file, not a picture, truncated, too large, or a pixel format that has no RGB reading.

    >>> load_image(Image.new('L', (4, 3), 128)).mode
    'RGB'
    """
    colour = as_colour(background)
    with _header(source, max_pixels) as (image, name):
        turn = _UPRIGHT.get(_orientation(image))
        try:
            with pillow_settings(max_pixels):
                image.load()
            rgb = to_rgb(image, colour)
            rgb = rgb if turn is None else rgb.transpose(turn)
        except MemoryError:
            raise
        except DataError as error:
            raise error.at(name) from None
        except Exception as error:  # a damaged file raises whatever its decoder stumbles over
            raise _metadata_error(error, name) or DataError(
                f'this picture breaks off or is damaged: {first_line(error)}',
                file=name,
                expected=f'a whole {image.format or "picture"} of {image.width}x{image.height} pixels',
                fix='fetch or export the file again',
            ) from error
    if rgb is not source:
        rgb.info = {}
    return rgb


def is_spoilt_without_alpha(source: ImageSource, max_pixels: int = MAX_PIXELS) -> bool:
    """Whether dropping alpha would show other colours than a white background. Opaque pictures are not decoded.

    Raises:
        DataError: as ``load_image``.
    """
    with _header(source, max_pixels) as (image, _):
        if not image.has_transparency_data:
            return False
        shown, bare = (load_image(source, max_pixels, background) for background in (WHITE, None))
    return ImageChops.difference(shown, bare).getbbox() is not None


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


def to_rgb(image: Image.Image, background: str | Sequence[int] | None = WHITE) -> Image.Image:
    """The picture in mode RGB (itself if it is opaque RGB). 16-bit greys are scaled, where Pillow may clip them.

    Args:
        background: what shows through, as of ``load_image``.

    Raises:
        DataError: float or 32-bit integer pixels, whose range is unknown, or a mode without a conversion to RGB.
    """
    if image.has_transparency_data and image.mode not in _WITHOUT_ALPHA:
        colour: Colour | None = as_colour(background)
        image = without_alpha(image) if colour is None else flattened(image, colour)
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
            path = os.fspath(source)
            name = path if len(path) <= _LONGEST_NAME else clipped(path)
            stream = stack.enter_context(_open_file(path, name))
        image = _identify(stream, name, max_pixels)
        _check_size(image, name, max_pixels)
        yield image, name


def _open_file(path: str, name: str) -> IO[bytes]:
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # opening a named pipe waits forever for a writer
            raise DataError(
                'not a regular file but a named pipe, a socket or a device',
                file=name,
                expected='a picture file',
                fix='save the picture as a file',
            )
        return open(path, 'rb')
    except FileNotFoundError:
        raise DataError(
            'no such picture',
            file=name,
            fix='check the path in the annotation, and the folder in which it starts: image_root of a dataset, '
            '--image-root of a command (default: the folder of the annotation file)',
        ) from None
    except IsADirectoryError:
        raise DataError('a directory', file=name, expected='a picture file', fix='name a file in it') from None
    except DataError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL, or half of a character, in the path
        why = getattr(error, 'strerror', None) or first_line(error)
        raise DataError(
            f'cannot be opened: {why}',
            file=name,
            expected='the path of a picture file that may be read',
            fix='check the path, and the permissions of the file',
        ) from error


def _identify(stream: IO[bytes], name: str, max_pixels: int) -> Image.Image:
    expected = 'a picture file (JPEG, PNG, WebP, GIF, BMP, TIFF, ...)'
    try:
        with pillow_settings(max_pixels):
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
        raise _metadata_error(error, name) or DataError(
            f'not a readable picture: {first_line(error)}', file=name, expected=expected, fix='replace it'
        ) from error
    if image.format in _PROGRAMS:
        what = f'{image.format}: PostScript, or what may hold it, is a program'
        raise DataError(what, file=name, expected=expected, fix='export it as PNG')
    scaled_key(image)
    return image


def _metadata_error(error: Exception, name: str) -> DataError | None:
    """Where it is not the picture that is too large: texts and colour profiles of a PNG."""
    if 'MAX_TEXT_' not in str(error):
        return None
    return DataError(
        'the texts or the colour profile beside the pixels are too large',
        file=name,
        expected='at most 64 MiB of them, unpacked',
        fix='save the picture again without metadata',
    )


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
