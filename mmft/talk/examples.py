"""Questions to try: a random choice from a dataset, or from a folder of pictures."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from mmft.data.pictures.loading import load_image
from mmft.errors import DataError
from mmft.structures import IMAGE_PLACEHOLDER

__all__ = ['Example', 'Examples']

_SUFFIXES = {'.avif', '.bmp', '.gif', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp'}
_THUMBNAIL = 320  # px, the longer side


@dataclass(frozen=True)
class Example:
    """A question with its pictures.

    Attributes:
        question: without the placeholders in front, if they are all there; empty for a mere picture.
        answer: the dataset's; empty if it has none.
    """

    question: str
    images: tuple[Path, ...]
    answer: str = ''

    def expects(self, question: str, images: Sequence[Path]) -> str:
        """The dataset's answer, if nothing was changed; else nothing."""
        return self.answer if question == self.question and tuple(images) == self.images else ''


class Examples:
    """The first questions of a dataset's conversations, or the pictures of a folder.

    Args:
        source: a folder, searched with those in it; an annotation file in any format that training reads; or the
            arguments of ``ChatDataset``.
        name: what the page calls them; default: the source's.

    Attributes:
        left_out: how many records of the dataset cannot be used.

    Raises:
        DataError: no such file, or nothing to show in it.
    """

    def __init__(self, source: str | Path | Mapping[str, Any], name: str | None = None) -> None:
        if not isinstance(source, Mapping) and Path(source).is_dir():
            found = sorted(file for file in Path(source).rglob('*') if file.suffix.lower() in _SUFFIXES)
            if not found:
                raise DataError(f'{source} holds no pictures', expected=f'files such as {", ".join(sorted(_SUFFIXES))}')
            self._items: Any = found
            self.left_out = 0
        else:
            # Looked up here: with the datasets comes torch, which a folder of pictures does not need.
            import mmft.data.records.dataset  # noqa: F401
            from mmft.registry import DATASETS

            dataset = source if isinstance(source, Mapping) else {'ann_file': source}
            self._items = DATASETS.build({'type': 'ChatDataset', **dataset, 'on_error': 'skip', 'check': 'records'})
            self.left_out = sum(self._items.skipped.values())
        self.name = name or ('the dataset' if isinstance(source, Mapping) else Path(source).name)

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, i: int) -> Example:
        if isinstance(self._items, list):
            return Example('', (self._items[i],))
        record = self._items.record(i)
        turns = [turn for turn in record.messages if turn['role'] != 'system']
        question, answer = turns[0]['content'], turns[1]['content'] if len(turns) > 1 else ''
        count = question.count(IMAGE_PLACEHOLDER)
        bare = question
        for _ in range(count):
            bare = bare.lstrip().removeprefix(IMAGE_PLACEHOLDER)
        question = question if IMAGE_PLACEHOLDER in bare else bare.strip()
        return Example(question, tuple(map(Path, record.images[:count])), answer)

    def draw(self, count: int, seed: int) -> list[tuple[Example, Image.Image]]:
        """Some examples that have a picture, with a small one to show; the same for the same seed.

        Fewer than ``count`` where there are not so many, or most are broken.
        """
        drawn: list[tuple[Example, Image.Image]] = []
        order = random.Random(seed).sample(range(len(self)), min(len(self), 4 * count))
        for i in order:
            try:
                example = self[i]
                picture = load_image(example.images[0]) if example.images else None
            except DataError:
                continue
            if picture is not None:
                picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
                drawn.append((example, picture))
            if len(drawn) == count:
                break
        return drawn
