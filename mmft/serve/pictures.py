"""Pictures of a request: found, decoded once to know that they are pictures, and handed on as data URLs.

What reaches a backend is always a data URL that decodes: backends read any file of the machine that a path names, and
fail without a word on what is no picture. A picture that two programs might read differently (turned by its EXIF data,
with transparency, 16 bits, CMYK, animated) is handed on as the upright 8-bit RGB that training saw.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from PIL import Image

from mmft.data.loading import load_image
from mmft.errors import DataError
from mmft.serve.fetch import Fetcher

__all__ = ['Picture', 'PictureLoader']

_PLAIN = ('JPEG', 'PNG', 'WEBP')
_ORIENTATION = 0x0112


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
        fetcher: of pictures on the web; None: the default one.
    """

    def __init__(
        self, threads: Executor, root: str | Path | None = None, max_bytes: int = 32 << 20,
        fetcher: Fetcher | None = None,
    ) -> None:  # fmt: skip
        self._threads, self._max_bytes = threads, max_bytes
        self._root = Path(root).resolve() if root is not None else None
        self._fetcher = fetcher or Fetcher(max_bytes)

    async def load(self, url: str) -> Picture:
        """The picture that a data URL holds, or that a web address or a path leads to.

        Raises:
            DataError: it is no picture, damaged, too large, private or not to be read by requests.
        """
        scheme = url[:8].lower().partition(':')[0]
        if scheme in ('http', 'https'):
            content: bytes | str = await self._fetcher.fetch(url)
        elif scheme == 'data':
            content = url
        else:
            content = await self._run(self._read, url)
        return await self._run(self._decode, content)

    async def _run(self, function, *arguments):
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    def _read(self, url: str) -> bytes:
        shown = url if len(url) <= 100 else f'{url[:97]}...'
        expected = 'a base64 data URL, or an http(s) address'
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

    def _decode(self, content: bytes | str) -> Picture:
        data = _from_data_url(content) if isinstance(content, str) else content
        if len(data) > self._max_bytes:
            raise DataError(f'a picture of more than {self._max_bytes:,} bytes', fix='shrink the picture')
        upright = load_image(data)
        kind = _plain_kind(data)
        if kind is None:
            stream = io.BytesIO()
            upright.save(stream, 'PNG', compress_level=1)
            data, kind = stream.getvalue(), 'png'
        return Picture(f'data:image/{kind};base64,{base64.b64encode(data).decode()}', upright.size)


def _from_data_url(url: str) -> bytes:
    head, comma, text = url.partition(',')
    if not comma or not head.lower().endswith(';base64'):
        raise DataError(f'{url[:60]!r}: not a base64 data URL', expected="'data:image/jpeg;base64,...'")
    try:
        return base64.b64decode(''.join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(f'{url[:60]!r}: broken base64: {error}', expected="'data:image/jpeg;base64,...'") from None


def _plain_kind(data: bytes) -> str | None:
    """The format of a picture that every program reads alike; None of all others."""
    with Image.open(io.BytesIO(data)) as image:
        alike = image.format in _PLAIN and image.mode in ('RGB', 'L') and not getattr(image, 'is_animated', False)
        if not alike or 'transparency' in image.info:
            return None
        return image.format.lower() if image.getexif().get(_ORIENTATION, 1) == 1 else None
