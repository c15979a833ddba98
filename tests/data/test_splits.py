"""Splitting: nothing that is shared is on both sides."""

from __future__ import annotations

import random

import pytest

from mmft.data.records.splits import linked_groups, split_apart, write_jsonl
from mmft.errors import ConfigError, DataError


def _random_links(seed):
    rng = random.Random(seed)
    return [
        [f'dish{rng.randrange(80)}', *(f'picture{rng.randrange(150)}' for _ in range(rng.randrange(2)))]
        for _ in range(120)
    ]


@pytest.mark.parametrize('seed', range(8))
def test_no_link_on_both_sides_and_none_lost(seed):
    links = _random_links(seed)
    train, val = split_apart(links, 0.2, seed)
    assert sorted(train + val) == list(range(len(links)))
    assert {x for n in train for x in links[n]}.isdisjoint(x for n in val for x in links[n])
    assert 0 < len(val) <= 0.2 * len(links)
    assert (train, val) == split_apart(links, 0.2, seed)


def test_groups_are_the_connected_components():
    assert linked_groups([['a'], ['b', 'c'], ['d'], ['c', 'a'], ['d']]) == [[0, 1, 3], [2, 4]]


def test_other_seeds_hold_out_other_items():
    links = [[str(n)] for n in range(50)]
    assert split_apart(links, 0.1, 0)[1] != split_apart(links, 0.1, 1)[1]
    assert len(split_apart(links, 0.1, 0)[1]) == 5


def test_the_ends_of_the_scale():
    links = [['a'], ['a']]
    assert split_apart(links, 0) == ([0, 1], [])
    assert split_apart(links, 1) == ([], [0, 1])
    assert split_apart([*links, ['b'], ['b']], 0.1) in (([0, 1], [2, 3]), ([2, 3], [0, 1]))
    with pytest.raises(DataError, match='none can be held out'):
        split_apart(links, 0.5)
    with pytest.raises(ConfigError, match='0 to 1'):
        split_apart(links, 1.5)


def test_write_jsonl_leaves_no_temporary_file(tmp_path):
    write_jsonl(tmp_path / 'a.jsonl', [{'dish': '肠粉'}, {'n': 2}])
    assert (tmp_path / 'a.jsonl').read_text(encoding='utf-8') == '{"dish": "肠粉"}\n{"n": 2}\n'
    assert [p.name for p in tmp_path.iterdir()] == ['a.jsonl']
