"""One annotation file with its image root and its encoder: what can be known of a record without decoding a picture."""

from __future__ import annotations

import copy
import logging
import os.path
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmft.data.pictures.paths import inside
from mmft.data.pictures.tilers import MAX_PIXELS, image_size
from mmft.data.records.annotations import AnnotationFile
from mmft.data.records.formats import Record, answers_of, format_names, parse_record
from mmft.data.records.mixture import SetSpec
from mmft.data.text.templates import ChatTemplate
from mmft.errors import ConfigError, DataError
from mmft.registry import IMAGE_PROCESSORS
from mmft.structures import Sample
from mmft.words import clipped, count_of

__all__ = ['KINDS', 'Scan', 'Subset', 'inside']

logger = logging.getLogger('mmft')

KINDS = ('record', 'picture', 'length')
"""What can be wrong: JSON, roles, texts and paths; a picture; too many tokens."""


@dataclass(slots=True)
class Scan:
    """What is known of a record before its pictures are decoded.

    Attributes:
        length: tokens, -1 while not known.
        images: pictures.
        problem: why the record cannot be used, if it cannot.
        kind: what is wrong: one of ``KINDS``.
        unread: see ``Record``.
        lost_ends: of a sample that is cut off at ``max_length``: how many answers lose their end token; -1: it is not.
    """

    length: int = -1
    images: int = 0
    problem: DataError | None = None
    kind: str = ''
    unread: tuple[str, ...] = ()
    lost_ends: int = -1


class Subset:
    """One annotation file with its image root and its encoder."""

    def __init__(
        self,
        spec: SetSpec,
        encoder: Any,
        follow_links: bool,
        on_bad: Callable[[DataError], None] | None,
        min_side: int = 1,
        max_pixels: int = MAX_PIXELS,
        ignore_keys: Sequence[str] = (),
    ) -> None:
        if spec.format not in format_names():
            where = f', as {spec.label} asks' if spec.name else ''
            raise ConfigError(
                f'no annotation format is named {spec.format!r}{where}', expected=f'one of {format_names()}'
            )
        self.spec, self.follow_links, self.min_side, self.max_pixels = spec, follow_links, min_side, max_pixels
        self.ignore_keys = frozenset(ignore_keys)
        try:
            self._open(on_bad)
        except DataError as error:
            raise self._named(error) from None
        self.set_encoder(encoder)

    def _open(self, on_bad: Callable[[DataError], None] | None) -> None:
        spec = self.spec
        self.file = AnnotationFile(spec.ann_file, on_bad)
        root = Path(spec.image_root if spec.image_root is not None else Path(spec.ann_file).parent)
        if spec.image_root is not None and not os.path.isdir(root):
            key = '`root` of the set, or `image_root` for sets without one' if spec.name else '`image_root`'
            raise DataError('the image root is not a folder', file=root, expected='a folder', fix=f'check {key}')
        self.root = root.resolve()
        if spec.length is not None and spec.length != len(self.file):
            raise DataError(
                f'holds {count_of(len(self.file), "record")}, the meta file says {clipped(spec.length)}',
                file=spec.ann_file,
                fix='fetch the file again, or correct `length`',
            )

    def _named(self, error: DataError) -> DataError:
        """With the set and the meta file that led to the file."""
        if not self.spec.name:
            return error
        what = f'{error.bare} ({self.spec.label})'
        return DataError(what, file=error.file, line=error.line, expected=error.expected, fix=error.fix)

    def set_encoder(self, encoder: Any) -> None:
        self.encoder = encoder
        if encoder is None or not self.spec.tiles:
            return
        known = encoder.image_processor.config()
        if missing := self.spec.tiles.keys() - known.keys():
            raise ConfigError(
                f'{self.spec.label} changes {sorted(missing)}, which {known.get("type")} does not have',
                fix='remove min_/max_dynamic_patch from the meta file, or use DynamicTiler',
            )
        self.encoder = copy.copy(encoder)
        self.encoder.image_processor = IMAGE_PROCESSORS.build({**known, **self.spec.tiles})

    @property
    def template(self) -> ChatTemplate | None:
        """The template that the records are written with; None where there is no encoder, or one without templates."""
        template = getattr(self.encoder, 'template', None)
        return template if isinstance(template, ChatTemplate) else None

    def place(self, i: int) -> tuple[Path, int]:
        return self.file.path, self.file.line(i)

    def record(self, i: int) -> Record:
        """Record ``i``, checked, its picture paths resolved."""
        raw = self.file[i]
        try:
            record = parse_record(raw, self.spec.format, self.spec.conversations, self.ignore_keys, self.template)
            record.images = [str(inside(self.root, p, self.follow_links)) for p in record.images]
        except DataError as error:
            raise self._placed(error, i) from None
        record.meta.update(file=str(self.file.path), line=self.file.line(i))
        return record

    def scan(self, i: int, check_pictures: bool) -> Scan:
        kind = 'record'
        try:
            record = self.record(i)
            result = Scan(images=len(record.images), unread=record.unread)
            if check_pictures:
                kind = 'picture'
                sizes = [image_size(p, self.max_pixels) for p in record.images]
                self._check_sizes(record, sizes)
                if self.encoder is not None:
                    kind = 'record'
                    result.length = self.encoder.num_tokens(record.messages, sizes)
                    kind = 'length'
                    whole, result.length = result.length, self._limited(result.length)
                    if whole > result.length:
                        result.lost_ends = self.encoder.lost_ends(record.messages, sizes)
        except DataError as error:
            return Scan(problem=self._placed(error, i), kind=kind)
        return result

    def encode(self, i: int) -> Sample:
        """Sample ``i``.

        Raises:
            DataError: with file and line of the annotation.
        """
        record = self.record(i)
        try:
            sample = self.encoder(record.messages, record.images, max_pixels=self.max_pixels)
            self._check_sizes(record, sample.image_sizes)
        except DataError as error:
            raise self._placed(error, i) from error
        sample.meta.update(record.meta)
        if references := answers_of(record.raw):
            sample.meta['references'] = references
        return sample

    def _check_sizes(self, record: Record, sizes: list[tuple[int, int]]) -> None:
        for path, size in zip(record.images, sizes, strict=True):
            self.check_size(path, size)

    def check_size(self, path: str, size: tuple[int, int]) -> None:
        """Refuse a picture that is too small to be one."""
        if min(size) < self.min_side:
            raise DataError(
                f'{path}: a picture of {size[0]} x {size[1]} px',
                expected=f'sides of at least {self.min_side} px: a strip of less is a tracking pixel or a failed '
                'download, not a picture',
                fix='fetch it again, take the record out, or set `min_side=1` if it is meant',
            )

    def _placed(self, error: DataError, i: int) -> DataError:
        return error if error.file == str(self.file.path) else error.at(*self.place(i))

    def _limited(self, tokens: int) -> int:
        limit = self.encoder.max_length
        if limit is None or tokens <= limit:
            return tokens
        if self.encoder.too_long == 'error':
            raise DataError(
                f'{tokens} tokens',
                expected=f'at most max_length={limit}',
                fix='raise max_length, lower image_processor.max_tiles, split the conversation, '
                "or set too_long='truncate'",
            )
        return limit

    def log_cut(self, lost_ends: list[int]) -> None:
        """Log how many samples ``too_long='truncate'`` cuts off, and what the model is not taught because of it.

        Args:
            lost_ends: of each such sample (``Scan``).
        """
        are = 'is' if len(lost_ends) == 1 else 'are'
        lost = f'{count_of(sum(lost_ends), "answer")} {"loses" if sum(lost_ends) == 1 else "lose"} the end token'
        lost = f'{lost}, so the model is not taught to stop there' if any(lost_ends) else 'no end token is lost'
        logger.warning(
            f'{count_of(len(lost_ends), "record")} of {self.spec.ann_file} {are} longer than '
            f'encoder.max_length={self.encoder.max_length} and {are} cut off at the end: {lost}. Raise max_length, '
            'lower image_processor.max_tiles, or split the conversations.'
        )
