"""Rice rolls, tofu, duck, noodles and hot pot."""

from __future__ import annotations

import numpy as np

from demo_food.drawing import tableware as ware
from demo_food.drawing.canvas import Canvas, vary
from demo_food.drawing.garnish import TAU, scallions
from demo_food.drawing.shapes import box, capsule, disc, ellipse, fluted
from demo_food.drawing.tableware import some_bowl, some_plate

__all__ = ['dandan_noodles', 'hot_pot', 'mapo_tofu', 'peking_duck', 'rice_rolls']


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
        c.solid(
            box(length + 2 * r, 2 * r, 0.09),
            skin,
            (rng.normal(0, 0.03), y),
            rng.normal(0, 0.03),
            gloss=0.45,
            shine=16,
            bump=folds,
            bevel=r,
            rise=0.6,
        )
    for _ in range(int(rng.integers(1, 4))):
        x, reach = rng.uniform(-0.36, 0.36), 2 * r * count - 0.22
        c.solid(
            capsule(reach, rng.uniform(0.02, 0.05), rng.normal(0, 0.04)),
            soy,
            (x, 0),
            np.pi / 2 + rng.normal(0, 0.2),
            rise=0.3,
            gloss=0.5,
            alpha=0.55,
            shadow=0,
            soft=0.03,
        )
    scallions(c, int(rng.integers(12, 24)), lambda: (rng.normal(0, 0.3), rng.normal(0, 0.17)))


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
            c.solid(
                ellipse(0.25, 0.12),
                vary(rng, (232, 196, 160), 5),
                (at[0] + 0.015, at[1] + 0.03),
                turn,
                rise=0.5,
                gloss=0.1,
                shadow=0.55,
            )
            c.solid(ellipse(0.235, 0.10), vary(rng, skin, 8), at, turn, rise=0.8, gloss=0.75, shine=12, shadow=0)
    for k in range(3):
        c.solid(
            disc(0.24),
            vary(rng, (242, 230, 202), 4),
            (-0.36 + 0.03 * k, -0.42 - 0.02 * k),
            rise=0.08,
            bevel=0.04,
            gloss=0,
            grain=0.15,
            shadow=0.35,
        )
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
    c.bits(
        60,
        lambda: ellipse(rng.uniform(0.03, 0.055), 0.032),
        ((122, 62, 30), (92, 44, 22), (146, 84, 44)),
        lambda: (rng.normal(0, 0.16), rng.normal(0, 0.16)),
        gloss=0.3,
        shadow=0.45,
        grain=0.4,
    )
    c.bits(14, lambda: ellipse(0.034, 0.024), ((226, 190, 130),), 0.4, gloss=0.2, shadow=0.35)
    scallions(c, int(rng.integers(10, 20)), 0.4)


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

    c.bits(
        int(rng.integers(9, 15)),
        lambda: capsule(0.13, 0.026, 0.02),
        ((200, 24, 16), (150, 14, 10)),
        lambda: spot(1),
        gloss=0.7,
        shadow=0.3,
    )
    c.bits(26, lambda: disc(0.016), ((90, 30, 14), (60, 22, 12)), lambda: spot(1), gloss=0.2, shadow=0.2)
    c.bits(
        int(rng.integers(6, 10)),
        lambda: ellipse(0.045, 0.03),
        ((206, 44, 28),),
        lambda: spot(-1),
        gloss=0.5,
        shadow=0.3,
    )
    for _ in range(int(rng.integers(2, 5))):
        at = spot(-1)
        c.solid(disc(0.12), vary(rng, (150, 96, 58), 8), at, rise=0.5, gloss=0.3, shadow=0.35)
        for k in range(2):
            c.solid(capsule(0.14, 0.012), (236, 216, 180), at, k * np.pi / 2, rise=0.3, gloss=0, shadow=0)
    scallions(c, 8, lambda: spot(-1))
