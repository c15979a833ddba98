"""Dim sum and sweets: dumplings, tarts, haws, mooncakes, parcels."""

from __future__ import annotations

import numpy as np

from demo_food.drawing import tableware as ware
from demo_food.drawing.canvas import Canvas, vary
from demo_food.drawing.garnish import TAU, around
from demo_food.drawing.shapes import box, capsule, disc, ellipse, fluted, polygon, ring
from demo_food.drawing.tableware import some_plate

__all__ = ['candied_haws', 'egg_tarts', 'mooncakes', 'rice_parcels', 'soup_dumplings']


def soup_dumplings(c: Canvas) -> None:
    """小笼包: pleated dumplings in a bamboo steamer."""
    ware.steamer(c)
    rng = c.rng
    count = int(rng.choice([3, 4, 5, 6, 7]))
    r = {3: 0.31, 4: 0.28, 5: 0.27, 6: 0.25, 7: 0.25}[count]
    dough = vary(rng, (240, 230, 208), 5)
    for at in around(rng, count, 0.80 - r - 0.02 if count > 3 else 0.42, first=count == 7):
        pleats, twist = int(rng.integers(13, 18)), rng.uniform(3, 5)

        def fold(u, v, d, pleats=pleats, twist=twist, r=r):
            k = np.hypot(u, v) / r
            wave = np.sin(np.arctan2(v, u) * pleats + twist * 3 * k)
            return r * (
                0.075 * wave * np.clip(k * 3, 0, 1) * np.clip(1.15 - k, 0, 1) - 0.25 * np.exp(-((k / 0.16) ** 2))
            )

        c.solid(disc(r), dough, at, rng.uniform(0, TAU), bump=fold, gloss=0.3, shine=18, rise=0.75, shadow=0.5)
        c.solid(ring(r * 0.13, r * 0.1), dough * 0.94, at, gloss=0.2, shadow=0.35, rise=0.8)


def egg_tarts(c: Canvas) -> None:
    """蛋挞: crimped pastry around glossy yellow custard with caramel spots."""
    (some_plate if c.rng.uniform() < 0.65 else ware.board)(c)
    rng = c.rng
    count = int(rng.integers(1, 6))
    r = {1: 0.46, 2: 0.37, 3: 0.34, 4: 0.31, 5: 0.28}[count]
    pastry, custard = vary(rng, (214, 154, 78), 8), vary(rng, (252, 205, 52), 5)
    burnt = rng.uniform(0.1, 0.7)

    def crust(u, v, d):
        return 0.014 * np.sin(np.arctan2(v, u) * 22) + 0.006 * np.sin(d * 160)

    def filling(u, v, d):
        spots = np.clip(c.noise(d.shape, c.radius * 0.09) * 1.6 - 1.1 + burnt, 0, 0.8)[..., None]
        edge = np.clip(1 + d * 14, 0, 0.35)[..., None]
        return (custard * (1 - edge) + (226, 150, 30) * edge) * (1 - spots) + (122, 60, 20) * spots

    for at in around(rng, count, 0 if count == 1 else 0.78 - r, first=False):
        c.solid(
            fluted(r, 11, r * 0.035),
            pastry,
            at,
            rng.uniform(0, TAU),
            bevel=r * 0.2,
            rise=1.1,
            bump=crust,
            gloss=0.15,
            grain=0.6,
        )
        c.solid(disc(r * 0.8), pastry * 0.62, at, rise=-0.6, bevel=r * 0.1, gloss=0, shadow=0)
        c.solid(disc(r * 0.75), filling, at, rise=0.3, bevel=r * 0.3, gloss=0.6, shine=30, shadow=0)


def candied_haws(c: Canvas) -> None:
    """糖葫芦: red sugared haws on sticks."""
    rng = c.rng
    kind = rng.uniform()
    if kind < 0.45:
        some_plate(c)
    elif kind < 0.8:
        ware.board(c)
    else:
        c.solid(
            box(2.1, 1.6, 0.02), vary(rng, (236, 224, 196), 6), rise=0.1, bevel=0.03, gloss=0, shadow=0.4, grain=0.5
        )
    sticks, r = int(rng.integers(1, 4)), 0.15
    haw = vary(rng, (190, 20, 24), 8)
    for i in range(sticks):
        y, tilt = (i - (sticks - 1) / 2) * 0.42, rng.normal(0, 0.07)
        count = int(rng.integers(5, 7))
        along, across = np.cos(tilt), np.sin(tilt)
        c.solid(capsule(1.9, 0.022), (214, 178, 120), (0.12 * along, y + 0.12 * across), tilt, gloss=0.2, shadow=0.45)
        for k in range(count):
            x = (k - (count - 1) / 2) * r * 1.86 - 0.1
            at, size = (x * along, y + x * across), r * rng.uniform(0.94, 1.06)
            c.solid(disc(size * 1.07), (216, 96, 40), at, rise=0.6, alpha=0.55, gloss=0.5, shadow=0.4)
            c.solid(disc(size), vary(rng, haw, 6), at, gloss=1.0, shine=26, shadow=0.3)
            c.bits(
                4,
                lambda: disc(0.010),
                ((238, 208, 160),),
                lambda at=at, s=size: (at[0] + rng.normal(0, s * 0.35), at[1] + rng.normal(0, s * 0.35)),
                gloss=0,
                shadow=0,
            )
            gleam = (at[0] - size * 0.3, at[1] - size * 0.36)
            c.solid(
                ellipse(size * 0.24, size * 0.13),
                (255, 238, 228),
                gleam,
                -0.7,
                rise=0,
                gloss=0,
                shadow=0,
                alpha=0.75,
                soft=0.03,
            )


def mooncakes(c: Canvas) -> None:
    """月饼: golden cakes with a scalloped edge and a stamped flower, sometimes one cut open."""
    rng = c.rng
    (some_plate if rng.uniform() < 0.6 else ware.board)(c)
    count = int(rng.integers(1, 5))
    r = {1: 0.50, 2: 0.36, 3: 0.34, 4: 0.31}[count]
    crust, petals = vary(rng, (196, 124, 52), 9), int(rng.choice([5, 6, 8]))

    def stamp(u, v, d):
        k, a = np.hypot(u, v) / r, np.arctan2(v, u)
        flower = np.exp(-(((k - 0.42 - 0.16 * np.cos(petals * a)) / 0.055) ** 2))
        rim = np.exp(-(((k - 0.78) / 0.04) ** 2))
        heart = np.exp(-(((k - 0.14) / 0.05) ** 2))
        rays = 0.5 * np.clip(np.cos(petals * a), 0, 1) ** 6 * ((k > 0.2) & (k < 0.5))
        return r * 0.075 * np.maximum.reduce([flower, rim, heart, rays])

    def tone(u, v, d):
        high = (stamp(u, v, d) / (r * 0.075))[..., None]
        return crust * (0.86 + 0.28 * high)

    for i, at in enumerate(around(rng, count, 0 if count == 1 else 0.76 - r, first=False)):
        turn = rng.uniform(0, TAU)
        c.solid(fluted(r, 16, r * 0.045), tone, at, turn, bevel=r * 0.16, rise=1.4, bump=stamp, gloss=0.35, shadow=0.6)
        if i == 0 and count > 1 and rng.uniform() < 0.5:
            _cut_open(c, at, r, crust)


def _cut_open(c: Canvas, at: tuple[float, float], r: float, crust) -> None:
    """The cut face of a mooncake: crust, dark paste, orange yolk."""
    turn = c.rng.normal(0, 0.2)
    at = (at[0] * 0.6, at[1] * 0.6)
    c.solid(box(r * 1.95, r * 1.0, 0.06), np.asarray(crust) * 0.9, at, turn, rise=0.5, bevel=0.05)
    c.solid(box(r * 1.75, r * 0.78, 0.05), (98, 54, 28), at, turn, rise=0.1, bevel=0.03, gloss=0.2, shadow=0, grain=0.3)
    c.solid(disc(r * 0.33), (238, 132, 24), at, rise=0.3, gloss=0.4, shadow=0.2, grain=0.5)


def rice_parcels(c: Canvas) -> None:
    """粽子: three-cornered parcels in bamboo leaves, tied with string."""
    rng = c.rng
    kind = rng.uniform()
    (some_plate if kind < 0.5 else ware.board if kind < 0.8 else ware.steamer)(c)
    count = int(rng.integers(1, 4))
    r = {1: 0.40, 2: 0.31, 3: 0.26}[count]
    leaf = vary(rng, (104, 128, 56), 10)
    string = np.array([(236, 228, 206), (190, 40, 36), (214, 182, 116)][rng.integers(3)], np.float32)

    def faces(u, v, d):
        a = np.arctan2(v, u)
        face = np.floor((a + np.pi) / (TAU / 3))
        veins = 0.06 * np.sin((u * np.cos(face * 2.1 + 0.4) + v * np.sin(face * 2.1 + 0.4)) * 150 * 0.3 / r)
        return leaf * (0.88 + 0.14 * np.cos(face * 2.4) + veins + 0.08 * c.noise(d.shape, 6))[..., None]

    for at in around(rng, count, 0 if count == 1 else 0.42, first=False):
        turn = rng.uniform(0, TAU)
        c.solid(polygon(3, r, r * 0.22), faces, at, turn, bevel=r * 1.1, rise=0.75, gloss=0.25, shine=10, shadow=0.6)
        for k in range(3):
            a = turn + k * TAU / 3 + np.pi / 3
            reach = r * 0.62
            here = (at[0] + reach * np.cos(a) * 0.72, at[1] + reach * np.sin(a) * 0.72)
            c.solid(capsule(r * (1.25 - 0.1 * k), 0.016), string, here, a + np.pi / 2, gloss=0.2, shadow=0.4)
        c.solid(capsule(0.16, 0.014, 0.04), string, (at[0], at[1] + 0.03), turn, gloss=0.2, shadow=0.3)
        c.solid(disc(0.034), string, at, gloss=0.2, shadow=0.4)
