"""A balanced split: nothing shared, every kind's share, and only what lies across the border left out."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest

from mmft.data.records.balanced_split import split_balanced
from mmft.errors import ConfigError, DataError


def questions(seed: int, pictures: int = 60, four: int = 40, group: int = 60, dishes: int = 60):
    """Of each picture one question about it and its dish, and questions about four pictures of a group."""
    rng = random.Random(seed)
    items = [('one', [f'picture{n}', f'dish{rng.randrange(dishes)}']) for n in range(pictures)]
    for _ in range(four):
        first = group * rng.randrange(pictures // group)
        items.append(('four', [f'picture{n}' for n in rng.sample(range(first, first + group), 4)]))
    kinds, links = zip(*items, strict=True)
    return list(links), list(kinds), [kind == 'four' for kind in kinds]


@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('share', [0.1, 0.3, 0.8])
def test_no_link_on_both_sides_and_only_loose_items_are_left_out(seed, share):
    links, kinds, loose = questions(seed)
    train, val, out = parts = split_balanced(links, kinds, loose, share, seed)
    assert sorted(itertools.chain(*parts)) == list(range(len(links)))
    assert [sorted(part) for part in parts] == list(parts)
    sides = [{link for n in part for link in links[n]} for part in (train, val)]
    assert sides[0].isdisjoint(sides[1])
    for n in out:
        assert loose[n]
        assert not sides[0].isdisjoint(links[n])
        assert not sides[1].isdisjoint(links[n])
    there = Counter(kinds[n] for n in val)
    assert there['one'] == pytest.approx(share * 60, abs=2)
    assert parts == split_balanced(links, kinds, loose, share, seed)


@pytest.mark.parametrize('seed', range(4))
def test_every_kind_gets_its_share_where_groups_allow_it(seed):
    links, kinds, loose = questions(seed, pictures=100, four=50, group=10, dishes=100_000)
    train, val, out = split_balanced(links, kinds, loose, 0.2, seed)
    there = Counter(kinds[n] for n in val)
    assert there['one'] == pytest.approx(20, abs=3)
    assert there['four'] == pytest.approx(10, abs=3)
    assert len(out) <= 3
    assert len(train) + len(val) + len(out) == 150


def test_nothing_is_left_out_where_nothing_need_be():
    links = [['a'], ['b'], ['a', 'b'], ['c'], ['d'], ['c', 'd']]
    train, val, out = split_balanced(links, 'xxyxxy', [False, False, True] * 2, 0.5)
    assert sorted([train, val]) == [[0, 1, 2], [3, 4, 5]]
    assert not out


def test_other_seeds_hold_out_other_items():
    links = [[str(n)] for n in range(50)]
    held = [split_balanced(links, 'x' * 50, [False] * 50, 0.1, seed)[1] for seed in (0, 1)]
    assert len(held[0]) == len(held[1]) == 5
    assert held[0] != held[1]


def test_the_ends_of_the_scale():
    links, kinds, loose = [['a'], ['a', 'b']], 'xy', [False, True]
    assert split_balanced(links, kinds, loose, 0) == ([0, 1], [], [])
    assert split_balanced(links, kinds, loose, 1) == ([], [0, 1], [])
    assert split_balanced([], '', [], 0.5) == ([], [], [])
    large = [['a'], ['a'], ['a'], ['b'], ['b'], ['b']]
    assert split_balanced(large, 'x' * 6, [False] * 6, 0.01)[2] == []
    assert {len(part) for part in split_balanced(large, 'x' * 6, [False] * 6, 0.01)[:2]} == {3}
    assert len(split_balanced([['a', 'b'], ['c', 'd']], 'xx', [True, True], 0.5)[1]) == 1
    with pytest.raises(DataError, match='none can be held out'):
        split_balanced([['a'], ['a', 'b'], ['b']], 'xxx', [False] * 3, 0.5)
    with pytest.raises(ConfigError, match='0 to 1'):
        split_balanced(links, kinds, loose, 1.5)
