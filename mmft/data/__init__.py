"""Data: from annotation files and pictures to samples and batches.

The names below are imported when they are first used, so ``import mmft.data`` is cheap.
"""

from __future__ import annotations

import importlib
from typing import Any

_LAZY = {
    'AnyResTiler': 'mmft.data.images',
    'CenterCrop': 'mmft.data.images',
    'ChatDataset': 'mmft.data.dataset',
    'ChatEncoder': 'mmft.data.encoder',
    'ChatTemplate': 'mmft.data.templates',
    'DynamicTiler': 'mmft.data.images',
    'EpochBatchSampler': 'mmft.data.sampler',
    'ImageProcessor': 'mmft.data.images',
    'PackCollator': 'mmft.data.collate',
    'PadCollator': 'mmft.data.collate',
    'PadSquare': 'mmft.data.images',
    'Resize': 'mmft.data.images',
    'add_special_tokens': 'mmft.data.tokenizers',
    'build_template': 'mmft.data.templates',
    'give_pad_token': 'mmft.data.tokenizers',
    'has_tokenizer': 'mmft.data.tokenizers',
    'image_size': 'mmft.data.images',
    'load_image': 'mmft.data.images',
    'load_tokenizer': 'mmft.data.tokenizers',
    'register_template': 'mmft.data.templates',
    'save_tokenizer': 'mmft.data.tokenizers',
}

__all__ = sorted(_LAZY)


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
