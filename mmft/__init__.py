"""mmft: fine-tune InternVL2, LLaVA and other vision-language models from Python configs, export and serve them.

``import mmft`` does no work: torch and the rest are imported when a name below is first used.
"""

from __future__ import annotations

import importlib
from typing import Any

from mmft import moved, quiet  # noqa: F401  before everything that they are for

__version__ = '0.1.0'

_LAZY = {'load': 'mmft.checkpoint', 'VLM': 'mmft.models', 'ChatEncoder': 'mmft.data'}

__all__ = ['VLM', 'ChatEncoder', '__version__', 'load']


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
