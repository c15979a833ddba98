"""Values in Python text, read as data: nothing is run, imported or looked up."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

__all__ = ['literal']


def literal(node: ast.expr, names: Mapping[str, Any] = {}) -> Any:
    """The value of an expression that is made of literals; ``dict(a=1)`` is one of them.

    Args:
        node: of ``ast.parse``.
        names: bare words that stand for values.

    Raises:
        ValueError, TypeError, RecursionError: it is more than that.

    >>> literal(ast.parse("dict(type='lora', r=-4, targets=('q', [inf]))").body[0].value, {'inf': 1e9})
    {'type': 'lora', 'r': -4, 'targets': ('q', [1000000000.0])}
    """
    if isinstance(node, ast.Call):
        keys = [keyword.arg for keyword in node.keywords]
        if not isinstance(node.func, ast.Name) or node.func.id != 'dict' or node.args or None in keys:
            raise ValueError('a call, or ** in a dict')
        return {keyword.arg: literal(keyword.value, names) for keyword in node.keywords}
    if isinstance(node, ast.Dict):
        if None in node.keys:
            raise ValueError('** in a dict')
        return {literal(key, names): literal(value, names) for key, value in zip(node.keys, node.values, strict=True)}
    if isinstance(node, (ast.List, ast.Tuple)):
        items = [literal(item, names) for item in node.elts]
        return items if isinstance(node, ast.List) else tuple(items)
    if isinstance(node, ast.Name) and node.id in names:
        return names[node.id]
    return ast.literal_eval(node)
