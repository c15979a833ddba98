"""Dividing a dataset so that train and val share nothing and val holds its share of every kind of item.

:func:`mmft.data.records.splits.split_apart` keeps together all that is linked. Where items about several things, such
as questions about four pictures, link everything to everything, it has nothing to divide. Here such items bind nothing:
what they are about is divided, and those of them that come to lie across the border are left out of both sides.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from mmft.data.records.splits import components
from mmft.errors import ConfigError, DataError

__all__ = ['split_balanced']

_STARTS = 12  # searches from other random orders, of which the best counts; each takes about 0.1 s for 2,000 items
_LOOKED_AT = 16  # changes that are compared at a time: with all of them every search would end in the same place

_Change = tuple[float, Counter[str], Counter[str], Counter[int]]


def split_balanced(
    links: Sequence[Sequence[str]], kinds: Sequence[str], loose: Sequence[bool], share: float, seed: int = 0
) -> tuple[list[int], list[int], list[int]]:
    """Divide items into train and val so that no link is on both sides; loose items across the border are left out.

    Of the divisions that a seeded search finds, the one is taken that gives both sides their shares of every kind most
    closely (relative differences, squared) and leaves out the fewest (as shares of their kinds).

    Args:
        links: of each item, what it is about, such as its pictures and its dish; at least one.
        kinds: of each item, such as its task: val is to hold its share of each.
        loose: whether an item may be left out, so that its links may come to lie on different sides.
        share: of each kind, for val; 0 and 1 put all on one side.
        seed: of the search.

    Returns:
        The numbers of the items of train, of val, and of those left out, each in order.

    Raises:
        ConfigError: ``share`` is not from 0 to 1.
        DataError: the items that are not loose are all connected, so nothing can be held out.

    >>> split_balanced([['a'], ['b'], ['b', 'a'], ['c']], 'xxyx', [False, False, True, False], share=0.34)[2]
    []
    """
    if not 0 <= share <= 1:
        raise ConfigError(f'a val share of {share}', expected='0 to 1')
    everything = list(range(len(links)))
    if share in (0, 1) or not everything:
        return (everything, [], []) if share == 0 else ([], everything, [])
    bound = [[link] for own, free in zip(links, loose, strict=True) if free for link in own]
    bound += [list(own) for own, free in zip(links, loose, strict=True) if not free]
    number: dict[str, int] = {}
    atom_of = {link: number.setdefault(root, len(number)) for link, root in components(bound).items()}
    spans = [frozenset(atom_of[link] for link in own) for own in links]
    best = min(_searches(spans, kinds, share, seed), key=lambda division: division.cost, default=None)
    if best is None:
        raise DataError(
            f'all {len(links)} items are connected by what they share: none can be held out',
            fix='convert the tasks one by one, or put all on one side with a val share of 0 or 1',
        )
    sides = [{best.held_out[atom] for atom in span} for span in spans]
    train, held = ([n for n in everything if sides[n] == {side}] for side in (False, True))
    return train, held, [n for n in everything if len(sides[n]) == 2]


def _searches(spans: Sequence[frozenset[int]], kinds: Sequence[str], share: float, seed: int) -> list[_Division]:
    """Divisions with something on both sides."""
    found = [_Division(spans, kinds, share) for _ in range(_STARTS)]
    for start, division in enumerate(found):
        rng = random.Random(f'{seed} {start}')
        if start % 2:  # nothing is left out where nothing need be: single changes would not find back to that
            division.search(rng, division.groups)
        division.search(rng, division.moves)
    if not any(division.divides for division in found):  # larger groups than the shares: what a single change gives
        moves = found[0].moves
        found = [_Division(spans, kinds, share) for _ in moves]
        for division, atoms in zip(found, moves, strict=True):
            division.apply(atoms, division.change(atoms))
    return [division for division in found if division.divides]


class _Division:
    """Which atoms (links that must stay together) are held out, at first none, and what that costs.

    Args:
        spans: of each item its atoms; those with several are the loose ones.
        kinds: of each item.
        share: of each kind that is to be held out.
    """

    def __init__(self, spans: Sequence[frozenset[int]], kinds: Sequence[str], share: float) -> None:
        self._sets = Counter(zip(kinds, spans, strict=True))  # equal items move together
        self._kinds, self._spans, self._sizes = zip(
            *((kind, span, count) for (kind, span), count in self._sets.items()), strict=True
        )
        atoms = 1 + max(atom for span in self._spans for atom in span)
        self._touching: list[list[int]] = [[] for _ in range(atoms)]
        for n, span in enumerate(self._spans):
            for atom in span:
                self._touching[atom].append(n)
        self._total = Counter(kinds)
        self._want = {kind: (max(1, (1 - share) * n), max(1, share * n)) for kind, n in self._total.items()}
        self._inside = [0] * len(self._spans)  # atoms of each set that are held out
        self._held: Counter[str] = Counter()
        self._lost: Counter[str] = Counter()
        self.held_out = [False] * atoms

    @property
    def cost(self) -> float:
        return sum(self._term(kind, self._held[kind], self._lost[kind]) for kind in self._total)

    @property
    def divides(self) -> bool:
        held, lost = self._held.total(), self._lost.total()
        return 0 < held < self._total.total() - lost

    @property
    def moves(self) -> list[tuple[int, ...]]:
        """The atoms that may change sides together: each alone, and those of each loose item."""
        spans = [tuple(sorted(span)) for span in dict.fromkeys(self._spans) if len(span) > 1]
        return [*((atom,) for atom in range(len(self.held_out))), *spans]

    @property
    def groups(self) -> list[tuple[int, ...]]:
        """The atoms that all items, the loose ones too, hold together."""
        roots = components([sorted(span) for span in self._spans])
        groups: dict[int, list[int]] = {}
        for atom, root in roots.items():
            groups.setdefault(root, []).append(atom)
        return [tuple(group) for group in groups.values()]

    def search(self, rng: random.Random, moves: Sequence[tuple[int, ...]]) -> None:
        """Apply changes that lower the cost until none of the moves does."""
        moves = rng.sample(moves, len(moves))
        at, idle, few = 0, 0, min(_LOOKED_AT, 1 + len(moves) // 8)
        while idle < len(moves):
            tried = [self._towards(moves[(at + n) % len(moves)]) for n in range(few)]
            at, idle = at + len(tried), idle + len(tried)
            tried += self._exchanges(tried, moves, rng)
            changes = [(self.change(atoms), atoms) for atoms in tried]
            change, atoms = min(changes, key=lambda pair: pair[0][0])
            if change[0] < -1e-9:
                self.apply(atoms, change)
                idle = 0

    def _towards(self, atoms: tuple[int, ...]) -> tuple[int, ...]:
        """Those that must change sides to hold all of them out, or, where they are, to hold none of them out."""
        return tuple(atom for atom in atoms if not self.held_out[atom]) or atoms

    def _exchanges(
        self, tried: Sequence[tuple[int, ...]], moves: Sequence[tuple[int, ...]], rng: random.Random
    ) -> list[tuple[int, ...]]:
        """Each single atom in exchange for one of the other side: where the shares are met, nothing less is better."""
        single = [move[0] for move in moves if len(move) == 1]
        sides = [[atom for atom in single if self.held_out[atom] is side] for side in (False, True)]
        atoms = [move[0] for move in tried if len(move) == 1]
        return [(atom, rng.choice(other)) for atom in atoms if (other := sides[not self.held_out[atom]])]

    def change(self, atoms: Sequence[int]) -> _Change:
        """What other sides of these atoms change: the cost, and what ``apply`` needs."""
        held, lost, inside = Counter[str](), Counter[str](), Counter[int]()
        for atom in atoms:
            for n in self._touching[atom]:
                inside[n] += -1 if self.held_out[atom] else 1
        for n, step in inside.items():
            kind, size, before, whole = self._kinds[n], self._sizes[n], self._inside[n], len(self._spans[n])
            after = before + step
            held[kind] += size * ((after == whole) - (before == whole))
            lost[kind] += size * ((0 < after < whole) - (0 < before < whole))
        cost = 0.0
        for kind in held:
            old_held, old_lost = self._held[kind], self._lost[kind]
            cost += self._term(kind, old_held + held[kind], old_lost + lost[kind])
            cost -= self._term(kind, old_held, old_lost)
        return cost, held, lost, inside

    def apply(self, atoms: Sequence[int], change: _Change) -> None:
        """Make a change that ``change`` has looked at."""
        _, held, lost, inside = change
        for atom in atoms:
            self.held_out[atom] = not self.held_out[atom]
        for n, step in inside.items():
            self._inside[n] += step
        for kind in held:
            self._held[kind] += held[kind]
            self._lost[kind] += lost[kind]

    def _term(self, kind: str, held: int, lost: int) -> float:
        """What one kind costs: 0 where both sides have their shares, 1 for a side without any.

        What is left out counts by half: that train lacks it counts too.
        """
        total, (train, val) = self._total[kind], self._want[kind]
        return (held / val - 1) ** 2 + ((total - held - lost) / train - 1) ** 2 + 0.5 * lost / total
