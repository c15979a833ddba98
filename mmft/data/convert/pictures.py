"""Which pictures are there: folders are listed once, instead of asking the disk for each of a million paths."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from mmft.errors import DataError

__all__ = ['PICTURE_ENDINGS', 'Pictures']

PICTURE_ENDINGS = ('.jpg', '.jpeg', '.png', '.webp', '.gif', '.bmp', '.tif', '.tiff')


class Pictures:
    """The pictures below a folder.

    Args:
        root: the image root.

    Attributes:
        follow_links: whether a folder with pictures is a link that leaves ``root``, which a config must allow.

    Raises:
        DataError: ``root`` is no folder.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise DataError(
                'a file' if root.exists() else 'no such folder', file=root, expected='the folder with the pictures'
            )
        self.root = root.resolve()
        self.follow_links = False
        self._folders: dict[str, dict[str, list[str]]] = {}

    def find(self, path: str) -> str | None:
        """The picture at ``path`` (relative to the root), or of the same name with another ending; else None.

        Raises:
            DataError: the path is absolute, leaves the root, or is a URL.
        """
        plain = os.path.normpath(path)
        if '://' in path or os.path.isabs(plain) or plain.startswith('..') or '\0' in path:
            raise DataError(f'the picture {path[:80]!r}', expected='a path relative to the image root, and inside it')
        folder, name = os.path.split(plain)
        stem, ending = os.path.splitext(name)
        endings = self._list(folder).get(stem, ())
        if ending in endings:
            return plain
        others = [other for other in endings if other.lower() in PICTURE_ENDINGS]
        return os.path.join(folder, stem + others[0]) if others else None

    def first(self, paths: Iterable[str]) -> str:
        """The first of some places at which a picture may lie.

        Raises:
            DataError: it lies at none.
        """
        paths = list(paths)
        for path in paths:
            found = self.find(path)
            if found is not None:
                return found
        raise DataError(
            f'no picture {paths[0]}',
            expected=f'{" or ".join(paths)} in {self.root}',
            fix='check the picture folder: is it unpacked, is the download complete?',
        )

    def _list(self, folder: str) -> dict[str, list[str]]:
        """File name without ending -> its endings, the one of a JPEG first."""
        known = self._folders.get(folder)
        if known is None:
            known = self._folders[folder] = {}
            where = self.root / folder
            if where.is_dir():
                self.follow_links |= not where.resolve().is_relative_to(self.root)
                for name in sorted(os.listdir(where)):
                    stem, ending = os.path.splitext(name)
                    known.setdefault(stem, []).append(ending)
        return known
