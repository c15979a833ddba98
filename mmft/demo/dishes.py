"""The ten dishes of the demo, which the base model never sees, each drawn on its own tableware."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mmft.demo import tableware as ware
from mmft.demo.canvas import Canvas, box, capsule, disc, ellipse, fluted, polygon, ring, vary

__all__ = ['DISHES', 'scallions', 'some_plate']

TAU = 2 * np.pi


def some_plate(c: Canvas, oval: bool = False) -> None:
    """A plate as restaurants have them: mostly white, sometimes glazed, sometimes with a painted rim."""
    name = c.rng.choice(['white', 'white', 'white', 'blue', 'green', 'black'])
    color = vary(c.rng, ware.PLATE_COLORS[str(name)], 6)
    rim = name == 'white' and c.rng.uniform() < 0.45
    ware.round_plate(c, color, c.rng.uniform(0.66, 0.78) if oval else 1.0, rim=bool(rim))


def some_bowl(c: Canvas) -> None:
    """A bowl, white or dark."""
    name = c.rng.choice(['white', 'white', 'black', 'blue', 'green'])
    ware.bowl(c, vary(c.rng, ware.PLATE_COLORS[str(name)], 6))


def scallions(c: Canvas, count: int, spread) -> None:
    """Chopped scallions: small green rings."""
    greens = ((86, 150, 52), (120, 176, 70), (60, 122, 44))

    def piece():
        return ring(c.rng.uniform(0.02, 0.032), 0.02) if c.rng.uniform() < 0.6 else capsule(0.05, 0.013)

    c.bits(count, piece, greens, spread, gloss=0.2, shadow=0.3)


def _ring_places(rng: np.random.Generator, count: int, r: float, first: bool) -> list[tuple[float, float]]:
    """``count`` places around a circle, one of them in its middle when ``first``."""
    around = count - 1 if first else count
    start = rng.uniform(0, TAU)
    places = [(0.0, 0.0)] if first else []
    for i in range(around):
        a = start + TAU * i / max(around, 1)
        places.append((r * np.cos(a) + rng.normal(0, 0.015), r * np.sin(a) + rng.normal(0, 0.015)))
    return places


def rice_rolls(c: Canvas) -> None:
    """肠粉: white glossy rolls side by side, soy sauce over and under them."""
    some_plate(c, oval=True)
    rng = c.rng
    count, r = int(rng.integers(3, 5)), 0.145
    soy = np.array([104, 56, 24], np.float32)
    c.solid(fluted(0.53, 5, 0.06, rng.uniform(0, 6)), soy, rise=0.05, bevel=0.05, gloss=0.35, alpha=0.85, shadow=0)
    filling = np.array([(230, 150, 116), (164, 92, 66), (140, 160, 96), (236, 226, 205)][rng.integers(4)], np.float32)

    def skin(u, v, d):
        inside = np.clip(c.noise(d.shape, c.radius * 0.12) * 0.9 - 0.15, 0, 0.45)[..., None]
        return (247, 242, 230) * (1 - inside) + filling * inside

    def folds(u, v, d):
        return 0.0045 * np.sin(v * 40 + 2.5 * np.sin(u * 4)) + 0.010 * c.noise(d.shape, c.radius * 0.1)

    for i in range(count):
        y = (i - (count - 1) / 2) * 1.98 * r
        length = rng.uniform(0.86, 1.0)
        c.solid(box(length + 2 * r, 2 * r, 0.09), skin, (rng.normal(0, 0.03), y), rng.normal(0, 0.03),
                gloss=0.45, shine=16, bump=folds, bevel=r, rise=0.6)
    for _ in range(int(rng.integers(1, 4))):
        x, reach = rng.uniform(-0.36, 0.36), 2 * r * count - 0.22
        c.solid(capsule(reach, rng.uniform(0.02, 0.05), rng.normal(0, 0.04)), soy, (x, 0),
                np.pi / 2 + rng.normal(0, 0.2), rise=0.3, gloss=0.5, alpha=0.55, shadow=0, soft=0.03)
    scallions(c, int(rng.integers(12, 24)), lambda: (rng.normal(0, 0.3), rng.normal(0, 0.17)))


def soup_dumplings(c: Canvas) -> None:
    """小笼包: pleated dumplings in a bamboo steamer."""
    ware.steamer(c)
    rng = c.rng
    count = int(rng.choice([3, 4, 5, 6, 7]))
    r = {3: 0.31, 4: 0.28, 5: 0.27, 6: 0.25, 7: 0.25}[count]
    dough = vary(rng, (240, 230, 208), 5)
    for at in _ring_places(rng, count, 0.80 - r - 0.02 if count > 3 else 0.42, first=count == 7):
        pleats, twist = int(rng.integers(13, 18)), rng.uniform(3, 5)

        def fold(u, v, d, pleats=pleats, twist=twist, r=r):
            k = np.hypot(u, v) / r
            wave = np.sin(np.arctan2(v, u) * pleats + twist * 3 * k)
            return r * (0.075 * wave * np.clip(k * 3, 0, 1) * np.clip(1.15 - k, 0, 1) - 0.25 * np.exp(-((k / 0.16) ** 2)))

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

    for at in _ring_places(rng, count, 0 if count == 1 else 0.78 - r, first=False):
        c.solid(fluted(r, 11, r * 0.035), pastry, at, rng.uniform(0, TAU), bevel=r * 0.2, rise=1.1, bump=crust,
                gloss=0.15, grain=0.6)
        c.solid(disc(r * 0.8), pastry * 0.62, at, rise=-0.6, bevel=r * 0.1, gloss=0, shadow=0)
        c.solid(disc(r * 0.75), filling, at, rise=0.3, bevel=r * 0.3, gloss=0.6, shine=30, shadow=0)


def mapo_tofu(c: Canvas) -> None:
    """麻婆豆腐: white cubes in red oil with minced meat and scallions."""
    rng = c.rng
    some_bowl(c)
    red = vary(rng, (178, 46, 16), 8)
    ware.pool(c, red, 0.84, gloss=0.45, ripple=0.03)
    c.bits(40, lambda: ellipse(0.05, 0.035), ((96, 44, 22), (74, 32, 18)), 0.74, gloss=0.3, shadow=0.3, grain=0.5)
    tofu = (246, 234, 208)
    for _ in range(int(rng.integers(18, 26))):
        a, d = rng.uniform(0, TAU), 0.66 * np.sqrt(rng.uniform())
        at, turn, side = (d * np.cos(a), d * np.sin(a)), rng.uniform(0, TAU), rng.uniform(0.17, 0.22)
        c.solid(box(side, side, 0.03), vary(rng, tofu, 5), at, turn, bevel=0.045, rise=1.3, gloss=0.35, shadow=0.55)
        if rng.uniform() < 0.5:
            c.solid(fluted(side * 0.3, 3, 0.02), red * 1.15, at, turn, rise=0.2, alpha=0.75, gloss=0.5, shadow=0)
    c.bits(30, lambda: ellipse(0.038, 0.028), ((96, 44, 22), (64, 28, 16)), 0.7, gloss=0.3, shadow=0.3)
    scallions(c, int(rng.integers(14, 26)), 0.66)


def candied_haws(c: Canvas) -> None:
    """糖葫芦: red sugared haws on sticks."""
    rng = c.rng
    kind = rng.uniform()
    if kind < 0.45:
        some_plate(c)
    elif kind < 0.8:
        ware.board(c)
    else:
        c.solid(box(2.1, 1.6, 0.02), vary(rng, (236, 224, 196), 6), rise=0.1, bevel=0.03, gloss=0, shadow=0.4, grain=0.5)
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
            c.bits(4, lambda: disc(0.010), ((238, 208, 160),), lambda at=at, s=size: (
                at[0] + rng.normal(0, s * 0.35), at[1] + rng.normal(0, s * 0.35)), gloss=0, shadow=0)
            gleam = (at[0] - size * 0.3, at[1] - size * 0.36)
            c.solid(ellipse(size * 0.24, size * 0.13), (255, 238, 228), gleam, -0.7, rise=0, gloss=0, shadow=0,
                    alpha=0.75, soft=0.03)


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

    for i, at in enumerate(_ring_places(rng, count, 0 if count == 1 else 0.76 - r, first=False)):
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


def peking_duck(c: Canvas) -> None:
    """北京烤鸭: a fan of slices with crisp skin, pancakes, cucumber, scallion and a dish of sauce."""
    rng = c.rng
    some_plate(c)
    skin = vary(rng, (158, 66, 20), 8)
    count, start = int(rng.integers(8, 12)), rng.uniform(-0.3, 0.3)
    for ring_r, share in ((0.50, 1.0), (0.24, 0.6)):
        for i in range(int(count * share)):
            a = start + np.pi * (0.08 + 1.1 * i / (count * share))
            at = (ring_r * np.cos(a), ring_r * np.sin(a) - 0.02)
            turn = a + 0.35
            c.solid(ellipse(0.25, 0.12), vary(rng, (232, 196, 160), 5), (at[0] + 0.015, at[1] + 0.03), turn,
                    rise=0.5, gloss=0.1, shadow=0.55)
            c.solid(ellipse(0.235, 0.10), vary(rng, skin, 8), at, turn, rise=0.8, gloss=0.75, shine=12, shadow=0)
    for k in range(3):
        c.solid(disc(0.24), vary(rng, (242, 230, 202), 4), (-0.36 + 0.03 * k, -0.42 - 0.02 * k), rise=0.08, bevel=0.04,
                gloss=0, grain=0.15, shadow=0.35)
    c.solid(disc(0.17), (236, 236, 232), (0.04, -0.46), bevel=0.03, rise=1, gloss=0.4)
    c.solid(disc(0.135), (52, 22, 14), (0.04, -0.46), bevel=0.05, rise=0.3, gloss=0.7, shine=14, shadow=0)
    for k in range(int(rng.integers(5, 8))):
        at, turn = (0.40 + rng.normal(0, 0.05), -0.40 + 0.045 * (k - 3)), rng.normal(-0.5, 0.15)
        color = (148, 190, 104) if k % 2 else (228, 236, 206)
        c.solid(capsule(0.30, 0.022), vary(rng, color, 6), at, turn, gloss=0.3, shadow=0.4)


def dandan_noodles(c: Canvas) -> None:
    """担担面: noodles in chili oil under minced pork, with greens and peanuts."""
    rng = c.rng
    some_bowl(c)
    ware.pool(c, vary(rng, (186, 58, 18), 8), 0.84, gloss=0.45, ripple=0.025)
    lines = []
    for _ in range(int(rng.integers(46, 60))):
        a, r0 = rng.uniform(0, TAU), rng.uniform(0.1, 0.62)
        x0, y0 = 0.28 * np.cos(a), 0.28 * np.sin(a)
        t = np.linspace(0, rng.uniform(1.4, 3.2), 14) + rng.uniform(0, TAU)
        squash = rng.uniform(0.7, 1)
        line = np.stack([x0 * 0.6 + r0 * np.cos(t), y0 * 0.6 + squash * r0 * np.sin(t)], 1)
        far = np.hypot(*line.T)
        lines.append(line * np.minimum(1, 0.74 / np.maximum(far, 1e-6))[:, None])
    c.strands(lines, 0.042, vary(rng, (238, 200, 118), 6))
    for side in (-1, 1):
        a = rng.uniform(0, 0.6) + (0 if side > 0 else np.pi)
        at = (0.56 * np.cos(a), 0.56 * np.sin(a))
        c.solid(ellipse(0.26, 0.11), vary(rng, (56, 120, 46), 8), at, a + 1.2, gloss=0.3, rise=0.5, shadow=0.4)
        c.solid(capsule(0.3, 0.018), (196, 220, 160), at, a + 1.2, gloss=0.2, shadow=0)
    c.bits(60, lambda: ellipse(rng.uniform(0.03, 0.055), 0.032), ((122, 62, 30), (92, 44, 22), (146, 84, 44)),
           lambda: (rng.normal(0, 0.16), rng.normal(0, 0.16)), gloss=0.3, shadow=0.45, grain=0.4)
    c.bits(14, lambda: ellipse(0.034, 0.024), ((226, 190, 130),), 0.4, gloss=0.2, shadow=0.35)
    scallions(c, int(rng.integers(10, 20)), 0.4)


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

    for at in _ring_places(rng, count, 0 if count == 1 else 0.42, first=False):
        turn = rng.uniform(0, TAU)
        c.solid(polygon(3, r, r * 0.22), faces, at, turn, bevel=r * 1.1, rise=0.75, gloss=0.25, shine=10, shadow=0.6)
        for k in range(3):
            a = turn + k * TAU / 3 + np.pi / 3
            reach = r * 0.62
            here = (at[0] + reach * np.cos(a) * 0.72, at[1] + reach * np.sin(a) * 0.72)
            c.solid(capsule(r * (1.25 - 0.1 * k), 0.016), string, here, a + np.pi / 2, gloss=0.2, shadow=0.4)
        c.solid(capsule(0.16, 0.014, 0.04), string, (at[0], at[1] + 0.03), turn, gloss=0.2, shadow=0.3)
        c.solid(disc(0.034), string, at, gloss=0.2, shadow=0.4)


def hot_pot(c: Canvas) -> None:
    """火锅: a divided pot, red chili broth on one side and clear broth on the other."""
    rng = c.rng
    ware.pot(c)
    red, clear = vary(rng, (176, 34, 12), 8), vary(rng, (240, 224, 178), 5)

    def side(u, v, d):  # > 0 on the red side; the border is the S of the taiji
        curve = 0.30 * np.sin(u * np.pi / 0.88)
        return v - curve

    def broth(u, v, d):
        s = side(u, v, d)
        oil = np.clip(c.noise(d.shape, c.radius * 0.09) * 1.3 - 0.3, 0, 0.6)[..., None]
        hot = red * (1 - oil) + np.array([226, 92, 20]) * oil
        return np.where(s[..., None] > 0, hot, clear * (1 + 0.05 * c.noise(d.shape, c.radius * 0.15))[..., None])

    def boil(u, v, d):
        return 0.02 * c.noise(d.shape, c.radius * 0.11)

    c.solid(disc(0.87), broth, bevel=0.05, rise=0.2, gloss=0.4, shine=14, shadow=0, bump=boil)
    x = np.linspace(-0.86, 0.86, 26)
    c.strands([np.stack([x, 0.30 * np.sin(x * np.pi / 0.88)], 1)], 0.06, (196, 198, 200))

    def spot(sign: int):
        while True:
            p = rng.uniform(-0.78, 0.78, 2)
            s = p[1] - 0.30 * np.sin(p[0] * np.pi / 0.88)
            if np.hypot(*p) < 0.76 and sign * s > 0.12:
                return float(p[0]), float(p[1])

    c.bits(int(rng.integers(9, 15)), lambda: capsule(0.13, 0.026, 0.02), ((200, 24, 16), (150, 14, 10)),
           lambda: spot(1), gloss=0.7, shadow=0.3)
    c.bits(26, lambda: disc(0.016), ((90, 30, 14), (60, 22, 12)), lambda: spot(1), gloss=0.2, shadow=0.2)
    c.bits(int(rng.integers(6, 10)), lambda: ellipse(0.045, 0.03), ((206, 44, 28),), lambda: spot(-1), gloss=0.5, shadow=0.3)
    for _ in range(int(rng.integers(2, 5))):
        at = spot(-1)
        c.solid(disc(0.12), vary(rng, (150, 96, 58), 8), at, rise=0.5, gloss=0.3, shadow=0.35)
        for k in range(2):
            c.solid(capsule(0.14, 0.012), (236, 216, 180), at, k * np.pi / 2, rise=0.3, gloss=0, shadow=0)
    scallions(c, 8, lambda: spot(-1))


DISHES: dict[str, Callable[[Canvas], None]] = {
    '肠粉': rice_rolls,
    '小笼包': soup_dumplings,
    '蛋挞': egg_tarts,
    '麻婆豆腐': mapo_tofu,
    '糖葫芦': candied_haws,
    '月饼': mooncakes,
    '北京烤鸭': peking_duck,
    '担担面': dandan_noodles,
    '粽子': rice_parcels,
    '火锅': hot_pot,
}
"""How each dish is drawn, by its Chinese name."""
