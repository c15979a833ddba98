"""Still lifes for the base model: coloured balls, tubes, cubes... on tableware, with sauces and toppings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from demo_food.drawing import tableware as ware
from demo_food.drawing.canvas import Canvas, vary
from demo_food.drawing.garnish import TAU, scallions
from demo_food.drawing.shapes import Shape, box, capsule, disc, ellipse, fluted, polygon, ring

__all__ = ['COLORS', 'SHAPES', 'Still', 'still_life']

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
    sauce: str


def still_life(c: Canvas) -> Still:
    """Draw some things of one shape and colour on tableware, with liquid, strands or a topping by chance."""
    rng = c.rng
    shape, color = str(rng.choice(list(SHAPES))), str(rng.choice(list(COLORS)))
    served, ware_color = _set_the_table(c)
    sauce = _sauce(c, served)
    if rng.uniform() < 0.15:
        _strands(c)
    count = int(rng.integers(1, 7))
    _things(c, shape, color, count)
    return Still(shape, color, count, served, _topping(c), ware_color, sauce)


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


def _sauce(c: Canvas, served: str) -> str:
    """What bowls and pots are filled with and some plates are stained with: its colour's name, or 'none'."""
    rng = c.rng
    deep = served in ('bowl', 'pot')
    if not deep and rng.uniform() < 0.6:
        return 'none'
    name = str(rng.choice(list(COLORS)))
    wet = vary(rng, COLORS[name], 10)
    if deep:
        ware.pool(c, wet, 0.84, ripple=rng.uniform(0.005, 0.03))
    else:
        blot = fluted(rng.uniform(0.45, 0.55), int(rng.integers(3, 8)), 0.05, rng.uniform(0, 6))
        c.solid(blot, wet, rise=0.05, bevel=0.05, gloss=0.35, alpha=0.85, shadow=0)
    return name


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
        c.solid(
            size,
            paint,
            at,
            turn,
            rise=0.25 if flat else rng.uniform(0.7, 1),
            gloss=gloss,
            grain=grain,
            bump=relief,
            bevel=size.bevel * (0.25 if flat else 1),
            shadow=0.5,
        )


def _topping(c: Canvas) -> str:
    """A scattered garnish, and its name."""
    kind = str(c.rng.choice(['none', 'none', 'scallions', 'sesame', 'meat', 'chili', 'sauce']))
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
            c.solid(
                capsule(0.9, 0.035, c.rng.normal(0, 0.06)),
                tone,
                (0, c.rng.uniform(-0.3, 0.3)),
                c.rng.normal(0, 0.5),
                rise=0.3,
                gloss=0.5,
                alpha=0.7,
                shadow=0,
                soft=0.03,
            )
    return kind
