"""Checkpoints of mmft 0.1, and of no later one, hold their config as Python text: it is read as data, and never run."""

from __future__ import annotations

import ast
import math
from contextlib import suppress
from typing import Any

from mmft.plain_json import config_json
from mmft.python_text import literal
from mmft.registry import registries

__all__ = ['config_of_0_1']

_NUMBERS = {'inf': math.inf, 'nan': math.nan}  # as Python shows them


def config_of_0_1(text: str) -> dict[str, Any]:
    r"""What the text assigns to names, as today's checkpoints hold it; what is more than literals is left out.

    >>> config_of_0_1("model = dict(type='mmft.models.vlm.VLM', n=-1, sizes=(1, 2))\nlr = 2 * base_lr")
    {'model': {'type': 'VLM', 'n': -1, 'sizes': [1, 2]}}
    """
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    found: dict[str, Any] = {}
    for node in body:
        if isinstance(node, ast.Assign):
            with suppress(ValueError, TypeError, RecursionError):
                value = _of_today(literal(node.value, _NUMBERS))
                for name in (target.id for target in node.targets if isinstance(target, ast.Name)):
                    found |= config_json({name: value})
    return found


def _of_today(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _name(item) if key == 'type' else _of_today(item) for key, item in value.items()}
    return [_of_today(item) for item in value] if isinstance(value, (list, tuple)) else value


def _name(kind: Any) -> Any:
    """The registered name of a class, which 0.1 kept as module and name. Nothing is imported for it."""
    module, _, name = str(kind).rpartition('.')
    if module.partition('.')[0] == 'mmft':
        return name
    parts = (registry.module_dict.get(name) for registry in registries())
    return name if module and any(getattr(part, '__module__', None) == module for part in parts) else kind
