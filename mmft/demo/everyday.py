"""What the base model learns from: six ordinary dishes, and still lifes of coloured balls, tubes, cubes... on tableware."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mmft.demo import tableware as ware
from mmft.demo.canvas import Canvas, Shape, box, capsule, disc, ellipse, fluted, polygon, ring, vary
from mmft.demo.dishes import scallions, some_bowl, some_plate

__all__ = ['COLORS', 'KNOWN', 'SHAPES', 'Still', 'still_life']

TAU = 2 * np.pi


def char_siu(c: Canvas) -> None:
    """叉烧: a row of roast pork slices with a charred glaze."""
    some_plate(c, oval=True)
    rng = c.rng
    count = int(rng.integers(4, 8))
    glaze, pitch = vary(rng, (168, 48, 30), 9), 1.25 / count
    c.solid(fluted(0.5, 5, 0.06, rng.uniform(0, 6)), (96, 30, 16), rise=0.05, bevel=0.05, gloss=0.4, alpha=0.8, shadow=0)

    def meat(u, v, d):
        fiber = 0.12 * c.noise(d.shape, c.radius * 0.04)
        pale = np.clip(-d * 10, 0, 1)[..., None]
        return (glaze * (1 - pale) + vary_of * pale) * (1 + fiber)[..., None]

    for i in range(count):
        vary_of = vary(rng, (206, 112, 84), 8)
        x = (i - (count - 1) / 2) * pitch
        c.solid(box(0.80, pitch * 1.15, 0.09), meat, (x, rng.normal(0, 0.02)), np.pi / 2 + rng.normal(0, 0.06),
                bevel=0.07, rise=1.0, gloss=0.6, shine=14, shadow=0.5)
    if rng.uniform() < 0.6:
        scallions(c, int(rng.integers(6, 20)), lambda: (rng.normal(0, 0.3), rng.normal(0, 0.17)))


def steamed_rice(c: Canvas) -> None:
    """米饭: a heap of white grains in a bowl."""
    some_bowl(c)
    white = vary(c.rng, (244, 242, 234), 3)

    def heap(u, v, d):
        return 0.03 * c.noise(d.shape, 2.6)

    c.solid(disc(0.80), white, bevel=0.8, rise=0.3, gloss=0.1, bump=heap, shadow=0.3)
    c.bits(90, lambda: ellipse(0.045, 0.018), (white,), 0.7, gloss=0.2, shadow=0.25)
    if c.rng.uniform() < 0.4:
        c.bits(12, lambda: disc(0.013), ((40, 34, 30),), 0.3, gloss=0, shadow=0)


def fried_egg(c: Canvas) -> None:
    """煎蛋: a white with a brown lace and a domed yolk, one to three of them."""
    some_plate(c)
    rng = c.rng
    count = int(rng.integers(1, 4))
    r = {1: 0.48, 2: 0.34, 3: 0.30}[count]
    start = rng.uniform(0, TAU)
    for i in range(count):
        a, far = start + TAU * i / count, 0 if count == 1 else 0.38
        at, phase = (far * np.cos(a), far * np.sin(a)), rng.uniform(0, 6)

        def white(u, v, d):
            lace = np.clip(1 + d * 18 + 0.8 * c.noise(d.shape, 6), 0, 0.8)[..., None]
            return (250, 248, 240) * (1 - lace) + np.array([196, 142, 74]) * lace

        c.solid(fluted(r, 5, r * 0.08, phase), white, at, rise=0.15, bevel=0.1, gloss=0.3, shadow=0.3)
        yolk = (at[0] + rng.normal(0, r * 0.1), at[1] + rng.normal(0, r * 0.1))
        c.solid(disc(r * 0.42), vary(rng, (250, 170, 24), 6), yolk, rise=0.6, gloss=0.8, shine=30, shadow=0.3)


def watermelon(c: Canvas) -> None:
    """西瓜: red wedges with green rind and black seeds."""
    (some_plate if c.rng.uniform() < 0.6 else ware.board)(c)
    rng = c.rng
    count = int(rng.integers(1, 4))
    size = {1: 0.62, 2: 0.5, 3: 0.42}[count]
    red = vary(rng, (222, 52, 56), 7)
    for i in range(count):
        at, turn = (0.0, (i - (count - 1) / 2) * 0.5), rng.normal(0, 0.25)

        def half(u, v):
            return np.maximum(np.hypot(u, v) - size, -v)

        def flesh(u, v, d):
            r = np.hypot(u, v) / size
            tone = np.where((r > 0.93)[..., None], (38, 96, 42), np.where((r > 0.84)[..., None], (226, 238, 204), red))
            return tone * (1 + 0.05 * c.noise(d.shape, 5))[..., None]

        c.solid(Shape(half, size, 0.05), flesh, (at[0], at[1] - size * 0.4), turn, rise=0.6, gloss=0.3, shadow=0.55)
        for _ in range(9):
            a, r = rng.uniform(0.3, np.pi - 0.3), rng.uniform(0.3, 0.7) * size
            su, sv = r * np.cos(a), r * np.sin(a)
            seed = (at[0] + su * np.cos(turn) - sv * np.sin(turn), at[1] - size * 0.4 + su * np.sin(turn) + sv * np.cos(turn))
            c.solid(ellipse(0.03, 0.018), (36, 24, 20), seed, turn + a, gloss=0.4, shadow=0)


def cookies(c: Canvas) -> None:
    """饼干: flat brown discs with chocolate chips."""
    (some_plate if c.rng.uniform() < 0.6 else ware.board)(c)
    rng = c.rng
    count = int(rng.integers(2, 7))
    r = {2: 0.33, 3: 0.31, 4: 0.28, 5: 0.25, 6: 0.23}[count]
    dough, start = vary(rng, (206, 160, 104), 9), rng.uniform(0, TAU)
    for i in range(count):
        a = start + TAU * i / count
        at = ((0.76 - r) * np.cos(a), (0.76 - r) * np.sin(a))
        c.solid(fluted(r, 7, r * 0.02, rng.uniform(0, 6)), dough, at, bevel=r * 0.5, rise=0.5, gloss=0.05, grain=0.9)
        c.bits(9, lambda: ellipse(0.04, 0.032), ((70, 38, 24),), lambda at=at: (
            at[0] + rng.normal(0, r * 0.38), at[1] + rng.normal(0, r * 0.38)), gloss=0.35, shadow=0.3)


def tomato_soup(c: Canvas) -> None:
    """番茄汤: an orange-red cream soup with a swirl and basil."""
    some_bowl(c)
    rng = c.rng
    ware.pool(c, vary(rng, (222, 88, 42), 8), 0.84, gloss=0.2, ripple=0.008)
    t = np.linspace(0, rng.uniform(2.2, 3.4) * np.pi, 40)
    swirl = np.stack([(0.06 + 0.045 * t) * np.cos(t), (0.06 + 0.045 * t) * np.sin(t)], 1)
    c.strands([swirl], 0.035, (248, 230, 206))
    for _ in range(int(rng.integers(1, 4))):
        at = (rng.normal(0, 0.15), rng.normal(0, 0.15))
        c.solid(ellipse(0.15, 0.07), vary(rng, (62, 130, 50), 8), at, rng.uniform(0, TAU), rise=0.5, gloss=0.3)


KNOWN: dict[str, Callable[[Canvas], None]] = {
    '叉烧': char_siu,
    '米饭': steamed_rice,
    '煎蛋': fried_egg,
    '西瓜': watermelon,
    '饼干': cookies,
    '番茄汤': tomato_soup,
}
"""The dishes that the base model knows."""

COLORS = {
    'red': (200, 36, 34),
    'orange': (236, 132, 40),
    'yellow': (246, 206, 62),
    'green': (84, 146, 62),
    'blue': (58, 100, 190),
    'purple': (126, 70, 150),
    'brown': (132, 82, 46),
    'white': (243, 239, 230),
    'black': (48, 44, 46),
    'pink': (236, 150, 166),
}
"""Colours of things, by name."""

SHAPES: dict[str, Callable[[float], Shape]] = {
    'balls': lambda r: disc(r),
    'tubes': lambda r: capsule(2.4 * r, 0.52 * r),
    'cubes': lambda r: box(1.6 * r, 1.6 * r, 0.2 * r),
    'rings': lambda r: ring(0.72 * r, 0.5 * r),
    'pyramids': lambda r: polygon(3, 0.72 * r, 0.12 * r),
    'flowers': lambda r: fluted(0.85 * r, 6, 0.13 * r),
    'discs': lambda r: disc(r),
    'leaves': lambda r: ellipse(1.1 * r, 0.42 * r),
}
"""Outlines of things of radius r, by name."""

SERVED_ON = ('plate', 'oval plate', 'bowl', 'steamer', 'board', 'pot')


@dataclass(frozen=True)
class Still:
    """What a still life shows."""

    shape: str
    color: str
    count: int
    ware: str
    topping: str
    ware_color: str


def still_life(c: Canvas) -> Still:
    """Draw some things of one shape and colour on tableware, with liquid, strands or a topping by chance."""
    rng = c.rng
    shape, color = str(rng.choice(list(SHAPES))), str(rng.choice(list(COLORS)))
    served, ware_color = _set_the_table(c)
    liquid = served in ('bowl', 'pot') or rng.uniform() < 0.3
    if liquid:
        wet = vary(rng, COLORS[str(rng.choice(list(COLORS)))], 10)
        if served in ('bowl', 'pot'):
            ware.pool(c, wet, 0.84, ripple=rng.uniform(0.005, 0.03))
        else:
            blot = fluted(rng.uniform(0.4, 0.5), int(rng.integers(3, 8)), 0.05, rng.uniform(0, 6))
            c.solid(blot, wet, rise=0.05, bevel=0.05, gloss=0.35, alpha=0.85, shadow=0)
    if rng.uniform() < 0.15:
        _strands(c)
    count = int(rng.integers(1, 7))
    _things(c, shape, color, count)
    return Still(shape, color, count, served, _topping(c), ware_color)


def _set_the_table(c: Canvas) -> tuple[str, str]:
    """A piece of tableware under the things, and the name of its glaze ('' for wood and metal)."""
    served = str(c.rng.choice(SERVED_ON))
    glaze = str(c.rng.choice(list(ware.PLATE_COLORS)))
    tone = vary(c.rng, ware.PLATE_COLORS[glaze], 6)
    if served == 'plate':
        ware.round_plate(c, tone)
    elif served == 'oval plate':
        ware.round_plate(c, tone, c.rng.uniform(0.66, 0.78))
    elif served == 'bowl':
        ware.bowl(c, tone)
    else:
        {'steamer': ware.steamer, 'board': ware.board, 'pot': ware.pot}[served](c)
        glaze = ''
    return served, glaze


def _strands(c: Canvas) -> None:
    """Strings of one colour lying about in curves."""
    lines = []
    for _ in range(int(c.rng.integers(10, 40))):
        t = np.linspace(0, c.rng.uniform(1, 3), 12) + c.rng.uniform(0, TAU)
        r, x, y = c.rng.uniform(0.1, 0.5), *c.rng.normal(0, 0.1, 2)
        lines.append(np.stack([x + r * np.cos(t), y + r * np.sin(t)], 1))
    c.strands(lines, c.rng.uniform(0.03, 0.06), COLORS[str(c.rng.choice(list(COLORS)))])


def _things(c: Canvas, shape: str, color: str, count: int) -> None:
    """``count`` bodies in a row or around a circle, with a surface of their own."""
    rng = c.rng
    r = {1: 0.42, 2: 0.32, 3: 0.28, 4: 0.25, 5: 0.22, 6: 0.2}[count] * rng.uniform(0.85, 1.1)
    row = rng.uniform() < 0.4
    start, ridges, swirl = rng.uniform(0, TAU), int(rng.integers(0, 18)), rng.uniform(0, 5)
    depth = rng.choice([0.0, 0.0, 0.03, 0.06]) * r
    face, gloss, grain = vary(rng, COLORS[color], 12), rng.uniform(0, 0.9), rng.choice([0, 0, 0.3, 0.8])
    spots = rng.choice([0.0, 0.0, 0.5])

    def paint(u, v, d):
        stain = np.clip(c.noise(d.shape, c.radius * 0.08) * 1.2 - 0.4, 0, 0.6)[..., None] * spots
        return face * (1 - stain * 0.5)

    def relief(u, v, d):
        k = np.hypot(u, v) / r
        return depth * np.sin(np.arctan2(v, u) * ridges + swirl * 3 * k) * np.clip(1.1 - k, 0, 1)

    flat = shape in ('discs', 'leaves')
    lean = rng.uniform(0, TAU)
    for i in range(count):
        a, far = start + TAU * i / count, 0 if count == 1 else 0.72 - r
        at = (0.0, (i - (count - 1) / 2) * 1.2 / count) if row else (far * np.cos(a), far * np.sin(a))
        turn = rng.normal(0, 0.1) if row else lean + rng.normal(0, 0.6)
        size = SHAPES[shape](r if not row else min(r, 0.62 / count if shape != 'tubes' else 1.15 / count))
        c.solid(size, paint, at, turn, rise=0.25 if flat else rng.uniform(0.7, 1), gloss=gloss, grain=grain, bump=relief,
                bevel=size.bevel * (0.25 if flat else 1), shadow=0.5)


def _topping(c: Canvas) -> str:
    """A scattered garnish, and its name."""
    kind = str(c.rng.choice(['nothing', 'nothing', 'scallions', 'sesame', 'meat', 'chili', 'sauce']))
    n = int(c.rng.integers(14, 30))
    if kind == 'scallions':
        scallions(c, n, 0.5)
    elif kind == 'sesame':
        c.bits(2 * n, lambda: ellipse(0.02, 0.012), ((238, 214, 160), (40, 34, 30)), 0.5, gloss=0, shadow=0.2)
    elif kind == 'meat':
        c.bits(2 * n, lambda: ellipse(0.05, 0.035), ((110, 54, 28), (84, 38, 20)), 0.5, gloss=0.3, shadow=0.35)
    elif kind == 'chili':
        c.bits(n, lambda: capsule(0.11, 0.022, 0.02), ((200, 24, 16),), 0.5, gloss=0.6, shadow=0.3)
    elif kind == 'sauce':
        tone = ((92, 50, 22), (226, 60, 30), (250, 214, 90))[c.rng.integers(3)]
        for _ in range(3):
            c.solid(capsule(0.9, 0.035, c.rng.normal(0, 0.06)), tone, (0, c.rng.uniform(-0.3, 0.3)),
                    c.rng.normal(0, 0.5), rise=0.3, gloss=0.5, alpha=0.7, shadow=0, soft=0.03)
    return kind
