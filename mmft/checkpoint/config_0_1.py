"""Checkpoints of mmft 0.1, and of no later one, hold their config as Python text: it is read as data, and never run."""

from __future__ import annotations

import ast
from contextlib import suppress
from typing import Any

from mmft.plain_json import config_json
from mmft.registry import registries

__all__ = ['config_of_0_1']


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
                value = _value(node.value)
                found |= {name: config_json({name: value})[name] for name in map(_target, node.targets)}
    return found


def _target(node: ast.expr) -> str:
    if not isinstance(node, ast.Name):
        raise ValueError('a config assigns to names')
    return node.id


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict' and not node.args:
        return _settings({keyword.arg: _value(keyword.value) for keyword in node.keywords})
    if isinstance(node, ast.Dict):
        keys = [key and ast.literal_eval(key) for key in node.keys]  # None: of ** in a dict
        return _settings({key: _value(value) for key, value in zip(keys, node.values, strict=True)})
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(item) for item in node.elts]
    return ast.literal_eval(node)


def _settings(found: dict[Any, Any]) -> dict[str, Any]:
    if not all(isinstance(key, str) for key in found):
        raise ValueError('the settings of a part have names')
    return {key: _name(value) if key == 'type' else value for key, value in found.items()}


def _name(kind: Any) -> Any:
    """The registered name of a class, which 0.1 kept as module and name. Nothing is imported for it."""
    module, _, name = str(kind).rpartition('.')
    if module.partition('.')[0] == 'mmft':
        return name
    parts = (registry.module_dict.get(name) for registry in registries())
    return name if module and any(getattr(part, '__module__', None) == module for part in parts) else kind
