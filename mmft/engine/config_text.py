"""A config as Python text that can be read again, for the copy in the work_dir and for ``mmft copy-cfg``."""

from __future__ import annotations

import ast
from itertools import accumulate

from mmengine.config import Config

__all__ = ['config_text']


def config_text(cfg: Config) -> str:
    """The text of a whole config; infinite numbers, which ``repr`` writes as names, are calls.

    >>> config_text(Config({'clip': float('-inf'), 'name': 'inf'}))
    "clip = -float('inf')\\nname = 'inf'\\n"
    """
    text = cfg.pretty_text
    try:
        nodes = [*ast.walk(ast.parse(text))]
    except SyntaxError:  # an object that has no text; the run itself does not need it
        return text
    content = text.encode()
    starts = [0, *accumulate(len(line) for line in content.splitlines(keepends=True))]
    names = {
        starts[node.lineno - 1] + node.col_offset: node.id
        for node in nodes
        if isinstance(node, ast.Name) and node.id in ('inf', 'nan')
    }
    for start, name in sorted(names.items(), reverse=True):
        content = content[:start] + f"float('{name}')".encode() + content[start + len(name) :]
    return content.decode()
