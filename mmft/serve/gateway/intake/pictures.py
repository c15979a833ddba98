"""Pictures of a request: found, decoded once to know that they are pictures, and handed on as data URLs.

What reaches a backend is always a data URL that decodes: backends read any file of the machine that a path names, and
fail silently on what is no picture. A picture that two programs might read differently (turned by its EXIF data,
with transparency, 16 bits, CMYK, animated) is handed on as the upright 8-bit RGB that training saw: as PNG, or, a photo
that is merely turned, as JPEG of high quality, since its PNG would be ten times as large.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
from collections.abc import Callable, Collection
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from PIL import Image, UnidentifiedImageError

from mmft.data.pictures.paths import is_base64_picture
from mmft.data.pictures.portable import portable
from mmft.data.pictures.transparency import WHITE, Colour
from mmft.errors import DataError
from mmft.serve.gateway.intake.fetch import Fetcher
from mmft.words import clipped

__all__ = ['KNOWN_FORMATS', 'Picture', 'PictureLoader', 'from_data_url', 'is_web_address']

KNOWN_FORMATS = ('JPEG', 'PNG', 'WEBP', 'GIF', 'BMP')
"""What is decoded for strangers; Pillow knows dozens more, seldom used and seldom audited."""


@dataclass(frozen=True)
class Picture:
    """A picture that decodes.

    Attributes:
        url: ``data:image/...;base64,...``.
        size: (width, height), upright.
    """

    url: str
    size: tuple[int, int]


class PictureLoader:
    """Turns the URLs of a request into pictures.

    Args:
        threads: where pictures are decoded: as many at a time as it has threads.
        root: the folder whose files requests may name; None: they may name none.
        max_bytes: of one encoded picture.
        hosts: names that may have private addresses.
        fetcher: of pictures on the web; None: the default one.
        background: that of the model's encoder, on which transparent pictures are laid.
    """

    def __init__(
        self, threads: Executor, root: str | Path | None = None, max_bytes: int = 32 << 20,
        hosts: Collection[str] = (), fetcher: Fetcher | None = None, background: Colour | None = WHITE,
    ) -> None:  # fmt: skip
        self._threads, self._max_bytes, self._background = threads, max_bytes, background
        self._root = Path(root).resolve() if root is not None else None
        self._fetcher = fetcher or Fetcher(max_bytes, allowed_hosts=hosts)

    async def load(self, url: str, take: Callable[[int], None] = lambda size: None) -> Picture:
        """The picture that a data URL holds, or that a web address or a path leads to.

        Args:
            take: called with the number of bytes as they come from the web, and may raise.

        Raises:
            DataError: it is no picture, damaged, too large, private or not to be read by requests.
        """
        if is_web_address(url):
            make, content = self._picture, await self._fetcher.fetch(url, take)
        else:
            make, content = (self._decode if url[:5].lower() == 'data:' else self._open), url
        return await asyncio.get_running_loop().run_in_executor(self._threads, make, content)

    async def close(self) -> None:
        """Close the connections."""
        await self._fetcher.close()

    def _open(self, url: str) -> Picture:
        return self._picture(self._read(url))

    def _read(self, url: str) -> bytes:
        shown = clipped(url, 100)
        expected = 'a base64 data URL, or an http(s) address'
        if is_base64_picture(url):
            raise DataError(
                f'{clipped(url, 24)!r}: base64 without its head', expected=expected,
                fix="write 'data:image/jpeg;base64,' before it (or png, webp, gif, bmp)",
            )  # fmt: skip
        if self._root is None:
            raise DataError(
                f'{shown!r}: this server reads no files for requests', expected=expected,
                fix='send the picture itself; whoever runs the server can allow a folder with --image-root',
            )  # fmt: skip
        try:
            split = urlsplit(url)
            path = Path(unquote(split.path) if split.scheme == 'file' else url)
            file = (self._root / path).resolve()
            inside = file.is_relative_to(self._root)
            if inside and file.is_file():
                with open(file, 'rb') as stream:
                    return stream.read(self._max_bytes + 1)
        except (OSError, ValueError):  # a name that no file can have
            inside = True
        what = 'no such picture' if inside else 'outside the folder whose pictures may be named'
        raise DataError(f'{shown!r}: {what}', expected=expected)

    def _decode(self, url: str) -> Picture:
        return self._picture(from_data_url(url))

    def _picture(self, data: bytes) -> Picture:
        if len(data) > self._max_bytes:
            raise DataError(f'a picture of more than {self._max_bytes:,} bytes', fix='shrink the picture')
        _check_format(data)
        kind, data, size = portable(data, self._background)
        return Picture(f'data:image/{kind};base64,{base64.b64encode(data).decode()}', size)


def is_web_address(url: str) -> bool:
    """Whether it is to be fetched."""
    return url[:8].lower().startswith(('http:', 'https:'))


def from_data_url(url: str) -> bytes:
    """What a base64 data URL holds.

    Raises:
        DataError: it is none, or broken.
    """
    head, comma, text = url.partition(',')
    if not comma or not head.lower().endswith(';base64'):
        raise DataError(f'{url[:60]!r}: not a base64 data URL', expected="'data:image/jpeg;base64,...'")
    try:
        return base64.b64decode(''.join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(f'{url[:60]!r}: broken base64: {error}', expected="'data:image/jpeg;base64,...'") from None


def _check_format(data: bytes) -> None:
    try:
        Image.open(io.BytesIO(data), formats=KNOWN_FORMATS).close()
    except UnidentifiedImageError:
        if not data:
            raise DataError('an empty file') from None
        expected = f'one of {", ".join(KNOWN_FORMATS)}'
        raise DataError(f'not a picture of a known format: it begins with {data[:16]!r}', expected=expected) from None
    except Exception:  # damaged in one of many ways, or a bomb: `portable` says what is wrong
        return
