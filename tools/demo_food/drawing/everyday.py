"""Six ordinary dishes, which the base model learns."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from demo_food.drawing import tableware as ware
from demo_food.drawing.canvas import Canvas, vary
from demo_food.drawing.garnish import TAU, around, scallions
from demo_food.drawing.shapes import Shape, box, capsule, disc, ellipse, fluted
from demo_food.drawing.tableware import some_bowl, some_plate

__all__ = ['KNOWN']


def char_siu(c: Canvas) -> None:
    """叉烧: a row of roast pork slices with a charred glaze."""
    some_plate(c, oval=True)
    rng = c.rng
    count = int(rng.integers(4, 8))
    glaze, pitch = vary(rng, (168, 48, 30), 9), 1.25 / count
    c.solid(
        fluted(0.5, 5, 0.06, rng.uniform(0, 6)), (96, 30, 16), rise=0.05, bevel=0.05, gloss=0.4, alpha=0.8, shadow=0
    )

    def meat(u, v, d):
        fiber = 0.12 * c.noise(d.shape, c.radius * 0.04)
        pale = np.clip(-d * 10, 0, 1)[..., None]
        return (glaze * (1 - pale) + vary_of * pale) * (1 + fiber)[..., None]

    for i in range(count):
        vary_of = vary(rng, (206, 112, 84), 8)
        x = (i - (count - 1) / 2) * pitch
        c.solid(
            box(0.80, pitch * 1.15, 0.09),
            meat,
            (x, rng.normal(0, 0.02)),
            np.pi / 2 + rng.normal(0, 0.06),
            bevel=0.07,
            rise=1.0,
            gloss=0.6,
            shine=14,
            shadow=0.5,
        )
    if rng.uniform() < 0.85:
        scallions(c, int(rng.integers(6, 20)), lambda: (rng.normal(0, 0.3), rng.normal(0, 0.17)))


def greens(c: Canvas) -> None:
    """青菜: stir-fried leaves on green stalks."""
    some_plate(c)
    rng = c.rng
    leaf = vary(rng, (58, 122, 44), 9)
    for i in range(int(rng.integers(7, 12))):
        turn = rng.normal(0.4, 0.35) + (np.pi if i % 2 else 0)
        at = (rng.normal(0, 0.10), rng.normal(0, 0.24))
        tip = (at[0] + 0.26 * np.cos(turn), at[1] + 0.26 * np.sin(turn))
        c.solid(capsule(0.42, 0.05), vary(rng, (142, 182, 88), 6), at, turn, gloss=0.4, shadow=0.45)

        tone = vary(rng, leaf, 9)

        def blade(u, v, d, tone=tone):
            vein = 0.4 * np.exp(-((v / 0.012) ** 2))[..., None]
            return tone * (1 - vein) + np.array([150, 190, 104]) * vein

        c.solid(ellipse(0.27, 0.14), blade, tip, turn, rise=0.5, gloss=0.45, shine=12, grain=0.3, shadow=0.45)


def oranges(c: Canvas) -> None:
    """橙子: whole oranges and halves that show their segments."""
    (some_plate if c.rng.uniform() < 0.6 else ware.board)(c)
    rng = c.rng
    count = int(rng.integers(2, 6))
    r = {2: 0.34, 3: 0.31, 4: 0.29, 5: 0.26}[count]
    peel = vary(rng, (238, 134, 28), 7)

    def segments(u, v, d):
        k, a = np.hypot(u, v) / r, np.arctan2(v, u)
        wall = ((np.abs(np.sin(5 * a)) < 0.13) & (k < 0.9)) | (k > 0.86) | (k < 0.1)
        return np.where(wall[..., None], (252, 226, 170), (246, 158, 44))

    for at in around(rng, count, 0.76 - r, first=False):
        if rng.uniform() < 0.45:
            c.solid(disc(r), peel, at, rise=0.4, bevel=0.06, gloss=0.2, shadow=0.55)
            c.solid(disc(r * 0.94), segments, at, rng.uniform(0, TAU), rise=0.1, bevel=0.03, gloss=0.3, shadow=0)
        else:
            c.solid(disc(r), peel, at, gloss=0.35, shine=14, grain=0.5, shadow=0.55)
            c.solid(disc(0.025), (70, 92, 40), at, rise=0.4, gloss=0, shadow=0.2)


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
            seed = (
                at[0] + su * np.cos(turn) - sv * np.sin(turn),
                at[1] - size * 0.4 + su * np.sin(turn) + sv * np.cos(turn),
            )
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
        c.bits(
            9,
            lambda: ellipse(0.04, 0.032),
            ((70, 38, 24),),
            lambda at=at: (at[0] + rng.normal(0, r * 0.3), at[1] + rng.normal(0, r * 0.3)),
            gloss=0.35,
            shadow=0.3,
        )


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
    '青菜': greens,
    '橙子': oranges,
    '西瓜': watermelon,
    '饼干': cookies,
    '番茄汤': tomato_soup,
}
"""The dishes that the base model knows."""
