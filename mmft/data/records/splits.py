"""Dividing a dataset into train and val so that nothing they share lets the model recognise val."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from mmft.errors import ConfigError, DataError

__all__ = ['components', 'linked_groups', 'split_apart', 'write_jsonl', 'write_text']

Link = TypeVar('Link', bound=Hashable)


def split_apart(links: Sequence[Sequence[str]], share: float, seed: int = 0) -> tuple[list[int], list[int]]:
    """Divide items into train and val so that no link is on both sides.

    Linked items form a group; groups go to val in a seeded order as long as they fit its share.

    Args:
        links: of each item, what it is about, such as its pictures and its dish; at least one.
        share: of the items, for val; 0 and 1 put all on one side.
        seed: of the order.

    Returns:
        The numbers of the items of train and of val, each in order.

    Raises:
        ConfigError: ``share`` is not from 0 to 1.
        DataError: everything is connected, so nothing can be held out.

    >>> split_apart([['a'], ['a', 'b'], ['c'], ['b']], share=0.25)
    ([0, 1, 3], [2])
    """
    if not 0 <= share <= 1:
        raise ConfigError(f'a val share of {share}', expected='0 to 1')
    everything = list(range(len(links)))
    if share in (0, 1):
        return (everything, []) if share == 0 else ([], everything)
    groups = linked_groups(links)
    random.Random(seed).shuffle(groups)
    held: set[int] = set()
    allowed = max(1, round(share * len(links)))
    for group in groups:
        if len(group) <= allowed - len(held):
            held.update(group)
    if not held and len(groups) > 1:
        held.update(min(groups, key=len))
    if not held:
        raise DataError(
            f'all {len(links)} items are connected by what they share: none can be held out',
            fix='convert the tasks one by one, or put all on one side with a val share of 0 or 1',
        )
    return [n for n in everything if n not in held], sorted(held)


def linked_groups(links: Sequence[Sequence[str]]) -> list[list[int]]:
    """Numbers of the items in groups that are connected by shared links, in the order of their first items."""
    roots = components(links)
    groups: dict[str, list[int]] = {}
    for n, own in enumerate(links):
        groups.setdefault(roots[own[0]], []).append(n)
    return list(groups.values())


def components(links: Sequence[Sequence[Link]]) -> dict[Link, Link]:
    """Every link, and the one that stands for all that are connected with it.

    >>> components([['a', 'b'], ['c']])
    {'a': 'a', 'b': 'a', 'c': 'c'}
    """
    parent: dict[Link, Link] = {}

    def find(link: Link) -> Link:
        parent.setdefault(link, link)
        while parent[link] != link:
            parent[link] = parent[parent[link]]
            link = parent[link]
        return link

    for own in links:
        for link in own:
            parent[find(link)] = find(own[0])
    return {link: find(link) for link in parent}


def write_jsonl(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Write one record a line."""
    write_text(path, ''.join(json.dumps(record, ensure_ascii=False) + '\n' for record in records))


def write_text(path: Path, text: str) -> None:
    """Write under a temporary name, then rename: the file is either whole or not there."""
    temporary = path.with_name(f'.{path.name}.tmp')
    temporary.write_text(text, encoding='utf-8')
    os.replace(temporary, path)
