"""``pillow_settings``: how Pillow is set while mmft opens and decodes pictures.

Its limits are variables of its modules, for the whole process. Threads that each set and restored them would restore
what another one had set: the first that comes sets them here, the last that goes restores them.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from PIL import Image, ImageFile, PngImagePlugin

__all__ = ['pillow_settings']


class _Rules:
    """The limits as they were, and how many calls need ours at the moment."""

    def __init__(self) -> None:
        self.lock, self.users, self.kept = threading.Lock(), 0, (False, None, 0)

    def enter(self, max_pixels: int) -> None:
        with self.lock:
            if not self.users:
                self.kept = ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK
                ImageFile.LOAD_TRUNCATED_IMAGES = False
                PngImagePlugin.MAX_TEXT_CHUNK = max(PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY)
            self.users += 1
            if Image.MAX_IMAGE_PIXELS is not None:
                Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, max_pixels)

    def leave(self) -> None:
        with self.lock:
            self.users -= 1
            if not self.users:
                ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = self.kept


_RULES = _Rules()  # one for the process, as what it guards


@contextlib.contextmanager
def pillow_settings(max_pixels: int) -> Iterator[None]:
    """A picture that breaks off is refused, and what mmft's own limits allow is not.

    - Some libraries (lmdeploy 0.18, when it is imported) tell Pillow to fill the rest of a picture with grey.
    - Pillow's limit of pixels is raised to ``max_pixels``, never lowered: it also guards pictures inside a file (ICO).
    - A text or colour profile of a PNG may have as many bytes as Pillow allows for all texts together (64 MiB, not 1):
      editors and render tools write long ones, and nothing else of the picture is large because of them.
    """
    _RULES.enter(max_pixels)
    try:
        yield
    finally:
        _RULES.leave()
