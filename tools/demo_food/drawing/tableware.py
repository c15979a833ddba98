"""What a dish stands on: tables, plates, bowls, steamers and boards."""

from __future__ import annotations

import math

import numpy as np

from demo_food.drawing.canvas import Canvas, vary
from demo_food.drawing.shapes import box, capsule, disc, ellipse, ring

__all__ = [
    'PLATE_COLORS',
    'TABLES',
    'board',
    'bowl',
    'chopsticks',
    'pool',
    'pot',
    'round_plate',
    'some_bowl',
    'some_plate',
    'steamer',
    'table',
]

PLATE_COLORS = {
    'white': (238, 237, 232),
    'blue': (70, 110, 180),
    'green': (120, 165, 125),
    'black': (52, 52, 56),
    'pink': (232, 170, 178),
    'yellow': (235, 200, 95),
}
"""Glazes by name."""


TABLES = {'wood': (150, 103, 66), 'cloth': (222, 214, 200), 'stone': (112, 116, 122), 'slate': (62, 66, 72)}
"""Table tops by name."""


def table(c: Canvas, kind: str, tint: np.ndarray | None = None) -> None:
    """Cover the picture with a table top of one of ``TABLES``."""
    base = vary(c.rng, TABLES[kind], 9) if tint is None else tint
    shape = (c.height, c.width)
    y, x = np.mgrid[: c.height, : c.width].astype(np.float32)
    turn = c.rng.uniform(0, np.pi)
    across = x * math.sin(turn) + y * math.cos(turn)
    along = x * math.cos(turn) - y * math.sin(turn)
    if kind == 'wood':
        plank = c.radius * c.rng.uniform(0.5, 0.9)
        row = np.floor(across / plank)
        tone = 1 + 0.07 * np.sin(row * 12.9898 + 1.7)
        veins = np.sin(across * 0.5 + 3 * np.sin(along * 0.012 + row) + 2.2 * c.noise(shape, 26))
        tone = tone + 0.045 * veins + 0.05 * c.noise(shape, 3)
        seam = np.abs(across / plank - row - 0.5) > 0.5 - 1.2 / plank
        tone = np.where(seam, tone * 0.62, tone)
    elif kind == 'cloth':
        check = c.radius * c.rng.uniform(0.3, 0.6)
        bands = (np.sin(across * np.pi / check) > 0).astype(np.float32) + (np.sin(along * np.pi / check) > 0)
        weave = 0.02 * np.sin(x * 2.1) * np.sin(y * 2.1)
        tone = 1 + weave + 0.02 * c.noise(shape, 18)
        thread = vary(c.rng, ((176, 60, 58), (70, 104, 150), (96, 130, 96), (190, 150, 90))[c.rng.integers(4)], 10)
        share = (bands * c.rng.choice([0.0, 0.16, 0.3]))[..., None]
        c.rgb = (base * (1 - share) + thread * share) * tone[..., None]
        return
    else:
        tone = 1 + 0.09 * c.noise(shape, 40) + 0.06 * c.noise(shape, 9) + 0.035 * c.noise(shape, 2.5)
    c.rgb = (base * tone[..., None]).astype(np.float32)


def round_plate(c: Canvas, color, oval: float = 1.0, rim: bool = False) -> None:
    """A plate of radius 1 (its short side ``oval`` as long), with or without a painted rim."""
    outer = ellipse(1.0, oval) if oval != 1 else disc(1.0)
    inner = ellipse(0.74, oval * 0.70) if oval != 1 else disc(0.72)
    c.solid(outer, color, bevel=0.10, rise=0.8, gloss=0.25, shadow=0.55)
    if rim:
        ink = vary(c.rng, ((58, 92, 160), (176, 52, 44), (196, 158, 70), (84, 132, 104))[c.rng.integers(4)], 8)
        if oval != 1:  # an oval rim is one oval over another
            c.solid(ellipse(0.94, oval * 0.93), ink, rise=0.05, bevel=0.02, gloss=0, shadow=0, alpha=0.85)
            c.solid(ellipse(0.885, oval * 0.865), color, rise=0.05, bevel=0.02, gloss=0, shadow=0)
        else:
            c.solid(ring(0.90, 0.055), ink, rise=0.1, gloss=0, shadow=0, alpha=0.85)
    c.solid(inner, np.asarray(color) * 0.975, bevel=0.12, rise=-0.45, gloss=0.12, shadow=0)


def bowl(c: Canvas, color, inside=None) -> None:
    """A deep bowl: a wall of radius 1 around a hollow of radius 0.86."""
    c.solid(disc(1.0), color, bevel=0.08, rise=1.2, gloss=0.4, shadow=0.7)
    inside = np.asarray(color) * 0.86 if inside is None else np.asarray(inside, np.float32)

    def shade(u, v, d):
        return inside * np.clip(0.55 - d * 1.2, 0, 1)[..., None]

    c.solid(disc(0.9), shade, bevel=0.4, rise=-0.7, gloss=0.1, shadow=0)


def pool(c: Canvas, color, r: float = 0.82, gloss: float = 0.25, ripple: float = 0.012) -> None:
    """A soup or sauce that fills a bowl up to radius ``r``."""
    tone = np.asarray(color, np.float32)

    def bump(u, v, d):
        return ripple * c.noise(d.shape, c.radius * 0.22)

    def paint(u, v, d):
        depth = 1 + 0.10 * c.noise(d.shape, c.radius * 0.3)
        return tone * (depth * np.clip(1.0 + d * 0.2, 0.7, 1))[..., None]

    c.solid(disc(r), paint, bevel=0.06, rise=0.25, gloss=gloss, shine=16, shadow=0, bump=bump)


def steamer(c: Canvas) -> None:
    """A bamboo steamer: a woven wall and a slatted floor, with or without a cloth."""
    bamboo = vary(c.rng, (205, 164, 104), 10)

    def weave(u, v, d):
        return 0.006 * np.sin(np.arctan2(v, u) * 60)

    c.solid(disc(1.0), bamboo * 0.86, bevel=0.05, rise=1.2, gloss=0.15, shadow=0.7, bump=weave)
    c.solid(ring(0.955, 0.045), bamboo * 1.06, gloss=0.15, shadow=0, rise=0.8)
    c.solid(ring(0.87, 0.03), bamboo * 0.7, gloss=0.1, shadow=0, rise=0.8)

    def slats(u, v, d):
        gap = np.abs(((v * 7.5) % 1.0) - 0.5) > 0.44
        tone = np.where(gap, 0.55, 1.0) + 0.04 * c.noise(d.shape, 5)
        return bamboo * (1.02 * tone * np.clip(0.72 - d * 1.6, 0, 1))[..., None]

    c.solid(disc(0.85), slats, bevel=0.1, rise=-0.5, gloss=0, shadow=0)
    if c.rng.uniform() < 0.6:
        cloth = vary(c.rng, (240, 236, 224), 5)
        c.solid(disc(0.80), cloth, bevel=0.05, rise=0.2, gloss=0, shadow=0.2, grain=0.12)


def board(c: Canvas, color=None) -> None:
    """A wooden serving board."""
    wood = vary(c.rng, (186, 138, 88), 12) if color is None else np.asarray(color, np.float32)

    def grain(u, v, d):
        lines = np.sin(v * 46 + 4 * np.sin(u * 1.7)) * 0.05 + 0.05 * c.noise(d.shape, 4)
        return wood * (1 + lines)[..., None]

    c.solid(box(2.15, 1.5, 0.14), grain, bevel=0.07, rise=0.6, gloss=0.08, shadow=0.6)


def pot(c: Canvas, color=None) -> None:
    """A metal pot with two handles."""
    steel = vary(c.rng, (176, 178, 180), 8) if color is None else np.asarray(color, np.float32)
    for side in (-1, 1):
        c.solid(box(0.26, 0.5, 0.12), steel * 0.75, (side * 1.03, 0), rise=0.6, gloss=0.5, shadow=0.5)
    c.solid(disc(1.0), steel, bevel=0.06, rise=1.3, gloss=0.7, shadow=0.7)
    c.solid(disc(0.92), steel * 0.6, bevel=0.12, rise=-0.8, gloss=0.3, shadow=0)


def chopsticks(c: Canvas) -> None:
    """A pair of chopsticks beside the plate."""
    wood = vary(c.rng, ((122, 66, 40), (60, 44, 40), (198, 158, 104))[c.rng.integers(3)], 8)
    x, tilt = c.rng.choice([-1, 1]) * c.rng.uniform(1.16, 1.26), np.pi / 2 + c.rng.normal(0, 0.06)
    for i in range(2):
        c.solid(capsule(1.7, 0.026), wood, (x + 0.08 * i, 0.04 * i), tilt + 0.03 * i, gloss=0.3, shadow=0.4)


def some_plate(c: Canvas, oval: bool = False) -> None:
    """A plate as restaurants have them: mostly white, sometimes glazed, sometimes with a painted rim."""
    name = c.rng.choice(['white', 'white', 'white', 'blue', 'green', 'black'])
    color = vary(c.rng, PLATE_COLORS[str(name)], 6)
    rim = name == 'white' and c.rng.uniform() < 0.45
    round_plate(c, color, c.rng.uniform(0.66, 0.78) if oval else 1.0, rim=bool(rim))


def some_bowl(c: Canvas) -> None:
    """A bowl, white or dark."""
    name = c.rng.choice(['white', 'white', 'black', 'blue', 'green'])
    bowl(c, vary(c.rng, PLATE_COLORS[str(name)], 6))
