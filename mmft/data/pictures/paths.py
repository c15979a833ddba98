"""The path of a picture as records write it -> the file, inside the image root.

Records that other programs wrote name pictures in many ways: as ``file://`` URLs, with the backslashes of Windows, or
not at all, the picture itself standing in their place. What names a file on this machine is read; everything else is
recognised, so that the error can say what it is.
"""

from __future__ import annotations

import os.path
import re
from pathlib import Path
from urllib.parse import unquote

from mmft.errors import DataError, first_line
from mmft.words import clipped

__all__ = ['inside', 'is_base64_picture']

_PATH = 'a path in the image root'
_BASE64 = re.compile(r'[A-Za-z0-9+/_\-\s]+=*\s*')
_BASE64_HEADS = ('/9j/', 'iVBORw0KGgo', 'R0lGOD', 'UklGR', 'Qk', 'SUkq', 'TU0A')
"""How JPEG, PNG, GIF, WebP, BMP and TIFF begin in base64."""
_SHORTEST_PICTURE, _LONGEST_PATH = 48, 1024  # characters


def inside(root: Path, path: str, follow_links: bool = False) -> Path:
    """The full path of a picture that must lie in ``root``.

    Args:
        root: the image root, already resolved.
        path: relative to ``root``, or absolute; also a ``file://`` URL, and, where there is no file of that name, with
            backslashes for slashes.
        follow_links: whether symbolic links below ``root`` may lead out of it.

    Raises:
        DataError: the path leaves ``root``, is another URL, the picture itself, or no path at all.
    """
    shown = clipped(repr(path), 120)
    _refuse_pictures(path, root)
    path = _local(path, shown)
    plain = _existing(root, path)
    try:
        full = plain.resolve()
    except (OSError, ValueError, RuntimeError) as error:
        why = getattr(error, 'strerror', None) or first_line(error)
        raise DataError(f'{shown} is not a path: {why}', expected=_PATH) from None
    if not plain.is_relative_to(root) and not full.is_relative_to(root):
        raise DataError(
            f'the picture {shown} lies outside the image root {str(root)!r}',
            expected='a path inside it',
            fix='move the picture, or set `image_root` to a folder that holds all pictures',
        )
    if not full.is_relative_to(root) and not follow_links:
        raise DataError(
            f'the picture {shown} is a link that leaves the image root {str(root)!r}: it leads to {str(full)!r}',
            expected='a picture inside the image root',
            fix='set `image_root` to the real folder, or `follow_links=True` if the link is meant',
        )
    return full


def is_base64_picture(text: str) -> bool:
    """Whether a text is an encoded picture rather than its name.

    >>> is_base64_picture('/9j/4AAQSkZJRgABAQAAAQABAAD' * 3), is_base64_picture('/9j/a.jpg')
    (True, False)
    """
    begins = text.startswith(_BASE64_HEADS) and len(text) >= _SHORTEST_PICTURE
    return (begins or len(text) > _LONGEST_PATH) and _BASE64.fullmatch(text) is not None


def _refuse_pictures(path: str, root: Path) -> None:
    if path[:5].lower() == 'data:' or (is_base64_picture(path) and not os.path.lexists(root / path)):
        raise DataError(
            f'a picture as base64 text instead of its path: {len(path):,} characters that begin with {path[:24]!r}',
            expected=_PATH,
            fix='save it as a file (base64.b64decode of what follows the comma, or of all of it), and name that',
        )


def _local(path: str, shown: str) -> str:
    """A URL of a file as the path that it means."""
    scheme = re.match(r'([A-Za-z][A-Za-z0-9+.-]+):/', path)  # two letters at least: C:/ is a drive
    if scheme and scheme[1].lower() == 'file':
        host, path = re.fullmatch(r'(?://([^/]*))?(.*)', path[5:], re.DOTALL).groups('')
        if host.lower() not in ('', 'localhost'):
            what = f'{shown} names a file of the machine {host!r}'
            raise DataError(what, expected='file:///path, or a path in the image root', fix='correct it')
        path = unquote(path)
    elif scheme and path[scheme.end() :].startswith('/'):
        raise DataError(
            f'the picture {shown} is a URL',
            expected=_PATH,
            fix='download it first: training opens local files only',
        )
    if re.match(r'/?[A-Za-z]:[\\/]', path):
        raise DataError(
            f'the picture {shown} is a path on a drive of Windows',
            expected=_PATH,
            fix='write it relative to the image root, with / between the folders',
        )
    return path


def _existing(root: Path, path: str) -> Path:
    """The path below the root; written with backslashes, the file that it means, if there is one.

    Raises:
        DataError: there is none of either name.
    """
    plain = Path(os.path.normpath(root / path))
    if '\\' not in path or os.path.lexists(plain):
        return plain
    meant = Path(os.path.normpath(root / path.replace('\\', '/')))
    if os.path.lexists(meant):
        return meant
    raise DataError(
        f'no such picture: {clipped(repr(path), 120)} has backslashes, as paths on Windows, and there is no '
        f'{clipped(path.replace(chr(92), "/"), 120)} in {str(root)!r} either',
        expected='a picture file',
        fix='check image_root and the path in the annotation',
    )
