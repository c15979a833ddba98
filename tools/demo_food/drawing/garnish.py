"""Scallions, and where things lie on a plate."""

from __future__ import annotations

import numpy as np

from demo_food.drawing.canvas import Canvas
from demo_food.drawing.shapes import capsule, ring

__all__ = ['TAU', 'around', 'scallions']

TAU = 2 * np.pi


def scallions(c: Canvas, count: int, spread) -> None:
    """Chopped scallions: small green rings."""
    greens = ((86, 150, 52), (120, 176, 70), (60, 122, 44))

    def piece():
        return ring(c.rng.uniform(0.02, 0.032), 0.02) if c.rng.uniform() < 0.6 else capsule(0.05, 0.013)

    c.bits(count, piece, greens, spread, gloss=0.2, shadow=0.3)


def around(rng: np.random.Generator, count: int, r: float, first: bool) -> list[tuple[float, float]]:
    """``count`` places around a circle, one of them in its middle when ``first``."""
    around = count - 1 if first else count
    start = rng.uniform(0, TAU)
    places = [(0.0, 0.0)] if first else []
    for i in range(around):
        a = start + TAU * i / max(around, 1)
        places.append((r * np.cos(a) + rng.normal(0, 0.015), r * np.sin(a) + rng.normal(0, 0.015)))
    return places
