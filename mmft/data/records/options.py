"""The options of a dataset, checked once, by ``ChatDataset`` and by the data check alike."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from mmft.checks import is_number, is_whole
from mmft.data.pictures.tilers import MAX_PIXELS
from mmft.errors import ConfigError
from mmft.words import clipped

__all__ = ['check_options']


def check_options(
    where: str,
    *,
    ann_file: Any = None,
    meta_file: Any = None,
    image_root: Any = None,
    format: Any = 'auto',
    on_error: Any = 'raise',
    check: Any = 'pictures',
    repeat_time: Any = 1.0,
    max_samples: Any = None,
    seed: Any = 0,
    follow_links: Any = False,
    min_side: Any = 2,
    max_pixels: Any = MAX_PIXELS,
    ignore_keys: Any = (),
    data_augment: Any = False,
) -> None:
    """Refuse invalid options of a dataset.

    Args:
        where: what the options are of, for the message.
        others: as of ``ChatDataset``.

    Raises:
        ConfigError: names every one that is wrong.
    """
    options = {key: value for key, value in locals().items() if key != 'where'}
    rules = {
        'ann_file': (_is_path(ann_file, None), 'a path'),
        'meta_file': (isinstance(meta_file, Mapping) or _is_path(meta_file, None), 'a path, or what the file holds'),
        'image_root': (_is_path(image_root, None), 'a path'),
        'format': (isinstance(format, str), 'the name of a format'),
        'on_error': (on_error in ('raise', 'skip'), "'raise' or 'skip'"),
        'check': (check in ('pictures', 'records'), "'pictures' or 'records'"),
        'repeat_time': (is_number(repeat_time) and repeat_time > 0, 'a number above 0'),
        'max_samples': (max_samples is None or is_whole(max_samples, least=1), 'a whole number from 1, or None'),
        'seed': (is_whole(seed, least=0), 'a whole number from 0'),
        'follow_links': (isinstance(follow_links, bool), 'True or False'),
        'min_side': (is_whole(min_side, least=0), 'a whole number from 0'),
        'max_pixels': (is_whole(max_pixels, least=1), 'a whole number from 1'),
        'data_augment': (data_augment in (True, False, None), 'True, False or None'),
        'ignore_keys': (
            isinstance(ignore_keys, (list, tuple, set, frozenset)) and all(isinstance(k, str) for k in ignore_keys),
            "a list of keys, such as ['objects']",
        ),
    }
    problems = [
        ConfigError(f'{where}: {key} {clipped(repr(options[key]))}', expected=expected)
        for key, (good, expected) in rules.items()
        if not good
    ]
    if (ann_file is None) == (meta_file is None):
        problems.append(
            ConfigError(
                f'{where} names {"neither" if ann_file is None else "both"} of ann_file and meta_file',
                expected='one of them',
                fix='set one, and leave the other out or None',
            )
        )
    if problems:
        raise ConfigError.gather(problems)


def _is_path(value: Any, none: None) -> bool:
    if value is none:
        return True
    return isinstance(value, (str, os.PathLike)) and bool(os.fspath(value)) and '\0' not in str(value)
