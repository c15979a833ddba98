"""What is looked over: the sets that a config's dataset names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmft.checks import check_counts
from mmft.data.images import MAX_PIXELS
from mmft.data.mixture import SetSpec, read_meta
from mmft.errors import ConfigError

__all__ = ['Source', 'source_of']


@dataclass(frozen=True)
class Source:
    """The sets of one loader, opened as ``ChatDataset`` would.

    Attributes:
        part: ``train`` or ``val``.
        specs: the sets.
        follow_links, min_side, max_pixels, ignore_keys: as in ``ChatDataset``.
    """

    part: str
    specs: tuple[SetSpec, ...]
    follow_links: bool = False
    min_side: int = 2
    max_pixels: int = MAX_PIXELS
    ignore_keys: tuple[str, ...] = ()


def source_of(dataset: Mapping[str, Any], part: str = 'train') -> Source:
    """The sets of ``train_dataloader.dataset`` or ``val_dataloader.dataset``.

    Raises:
        ConfigError: a dataset of another type, neither ``ann_file`` nor ``meta_file``, or a bad ``max_pixels``.
        DataError: a meta file that cannot be read.
    """
    if dataset.get('type', 'ChatDataset') != 'ChatDataset':
        raise ConfigError(
            f'{part}_dataloader.dataset is of type {dataset["type"]!r}',
            expected='ChatDataset',
            fix='name the annotation file with --ann-file',
        )
    ann_file, meta_file, root = (dataset.get(key) for key in ('ann_file', 'meta_file', 'image_root'))
    if (ann_file is None) == (meta_file is None):
        raise ConfigError(
            f'{part}_dataloader.dataset names {"both" if ann_file else "neither"} of ann_file and meta_file',
            expected='one of them',
            fix='set it in the config or with --cfg-options, or use --ann-file',
        )
    format = dataset.get('format', 'auto')
    if meta_file is not None:
        specs = read_meta(meta_file, root, format)
    else:
        specs = [SetSpec('', Path(ann_file), None if root is None else Path(root), format=format)]
    max_pixels = dataset.get('max_pixels', MAX_PIXELS)
    check_counts(f'{part}_dataloader.dataset', max_pixels=max_pixels)
    follow_links, min_side = bool(dataset.get('follow_links', False)), int(dataset.get('min_side', 2))
    return Source(part, tuple(specs), follow_links, min_side, max_pixels, tuple(dataset.get('ignore_keys', ())))
