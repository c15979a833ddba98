"""What is checked: the sets that a config's dataset names."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmft.data.pictures.tilers import MAX_PIXELS
from mmft.data.records.mixture import SetSpec, read_meta
from mmft.data.records.options import check_options
from mmft.errors import ConfigError

__all__ = ['Source', 'source_of']

_OPTIONS = tuple(name for name in inspect.signature(check_options).parameters if name != 'where')


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
    ignore_keys: Sequence[str] = ()


def source_of(dataset: Mapping[str, Any], part: str = 'train') -> Source:
    """The sets of ``train_dataloader.dataset`` or ``val_dataloader.dataset``.

    Raises:
        ConfigError: a dataset of another type, or invalid options (``check_options``).
        DataError: a meta file that cannot be read.
    """
    if dataset.get('type', 'ChatDataset') != 'ChatDataset':
        raise ConfigError(
            f'{part}_dataloader.dataset is of type {dataset["type"]!r}',
            expected='ChatDataset',
            fix='name the annotation file with --ann-file',
        )
    where = f'{part}_dataloader.dataset'
    options = {key: dataset[key] for key in _OPTIONS if key in dataset}
    check_options(where, **options)
    root, format = options.get('image_root'), options.get('format', 'auto')
    if options.get('meta_file') is not None:
        specs = read_meta(options['meta_file'], root, format)
    else:
        specs = [SetSpec('', Path(options['ann_file']), None if root is None else Path(root), format=format)]
    own = ('follow_links', 'min_side', 'max_pixels', 'ignore_keys')
    return Source(part, tuple(specs), **{key: options[key] for key in own if key in options})
