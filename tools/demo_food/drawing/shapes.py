"""Outlines as signed distances: negative inside, in plate radii."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

__all__ = ['Shape', 'box', 'capsule', 'disc', 'ellipse', 'fluted', 'polygon', 'ring']

Array = np.ndarray


@dataclass(frozen=True)
class Shape:
    """A signed distance around (0,0), the radius that holds it and the width over which its edge is rounded."""

    distance: Callable[[Array, Array], Array]
    extent: float
    bevel: float


def disc(r: float) -> Shape:
    """A circle."""
    return Shape(lambda u, v: np.hypot(u, v) - r, r, r)


def ellipse(a: float, b: float) -> Shape:
    """An ellipse with half axes a and b (a first-order distance, good near the edge)."""

    def distance(u: Array, v: Array) -> Array:
        k = np.hypot(u / a, v / b)
        return k * (k - 1) / (np.hypot(u / a**2, v / b**2) + 1e-6)

    return Shape(distance, max(a, b), min(a, b))


def capsule(length: float, r: float, bend: float = 0.0) -> Shape:
    """A tube along u with round ends; ``bend`` lifts its middle."""

    def distance(u: Array, v: Array) -> Array:
        v = v + bend * (1 - (2 * u / length) ** 2)
        return np.hypot(u - np.clip(u, -length / 2, length / 2), v) - r

    return Shape(distance, length / 2 + r + abs(bend), r)


def box(w: float, h: float, corner: float = 0.02) -> Shape:
    """A rectangle of w by h with round corners."""

    def distance(u: Array, v: Array) -> Array:
        qu, qv = np.abs(u) - w / 2 + corner, np.abs(v) - h / 2 + corner
        return np.hypot(np.maximum(qu, 0), np.maximum(qv, 0)) + np.minimum(np.maximum(qu, qv), 0) - corner

    return Shape(distance, float(np.hypot(w, h)) / 2, min(w, h) / 2)


def ring(r: float, width: float) -> Shape:
    """A circle's line of the given width."""
    return Shape(lambda u, v: np.abs(np.hypot(u, v) - r) - width / 2, r + width / 2, width / 2)


def fluted(r: float, teeth: int, depth: float, phase: float = 0.0) -> Shape:
    """A circle with a waved edge: a tart's crimp, a mooncake's rim, a blot of sauce."""

    def distance(u: Array, v: Array) -> Array:
        return np.hypot(u, v) - r - depth * np.cos(teeth * np.arctan2(v, u) + phase)

    return Shape(distance, r + depth, r)


def polygon(sides: int, r: float, corner: float = 0.05) -> Shape:
    """A regular polygon with inner radius r and round corners."""
    angles = [2 * math.pi * side / sides for side in range(sides)]

    def distance(u: Array, v: Array) -> Array:
        sides_away = [u * math.cos(a) + v * math.sin(a) - (r - corner) for a in angles]
        power = sum(np.maximum(d + corner, 0) ** 6 for d in sides_away) ** (1 / 6)
        return np.where(power > 0, power - corner, np.maximum.reduce(sides_away))

    return Shape(distance, r / float(np.cos(np.pi / sides)), r)
