"""Data: from annotation files and pictures to samples and batches.

The names below are imported when they are first used, so ``import mmft.data`` is cheap.
"""

from __future__ import annotations

import importlib
from typing import Any

_LAZY = {
    'AnyResTiler': 'mmft.data.pictures.tilers',
    'CenterCrop': 'mmft.data.pictures.tilers',
    'ChatDataset': 'mmft.data.records.dataset',
    'ChatEncoder': 'mmft.data.encoder',
    'ChatTemplate': 'mmft.data.text.templates',
    'DynamicTiler': 'mmft.data.pictures.tilers',
    'EpochBatchSampler': 'mmft.data.batches.sampler',
    'ImageProcessor': 'mmft.data.pictures.tilers',
    'OneVisionTiler': 'mmft.data.pictures.tilers',
    'PackCollator': 'mmft.data.batches.collate',
    'PadCollator': 'mmft.data.batches.collate',
    'PadSquare': 'mmft.data.pictures.tilers',
    'Resize': 'mmft.data.pictures.tilers',
    'add_special_tokens': 'mmft.data.text.special_tokens',
    'build_template': 'mmft.data.text.templates',
    'give_pad_token': 'mmft.data.text.special_tokens',
    'has_tokenizer': 'mmft.data.text.tokenizers',
    'image_size': 'mmft.data.pictures.tilers',
    'load_image': 'mmft.data.pictures.tilers',
    'load_tokenizer': 'mmft.data.text.tokenizers',
    'register_format': 'mmft.data.records.formats',
    'register_template': 'mmft.data.text.templates',
    'save_tokenizer': 'mmft.data.text.tokenizers',
}

__all__ = sorted(_LAZY)


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
