"""A small shaded canvas: flat shapes with a height, lit from one side, drawn from above like a photograph of a table.

Lengths are in plate radii: (0,0) is the middle of the plate and 1.0 its rim, whatever the picture's size. A shape is a
signed distance (negative inside), from which come its anti-aliased edge, its rounded height, its light and its shadow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw

from demo_food.drawing.shapes import Shape

__all__ = ['Canvas', 'vary']

Array = np.ndarray
Color = Sequence[float]


def vary(rng: np.random.Generator, color: Color, amount: float = 10) -> Array:
    """A colour near ``color``: the whole shifted together, each channel a little on its own."""
    shifted = np.asarray(color, np.float32) + rng.normal(0, amount) + rng.normal(0, amount / 2, 3)
    return np.clip(shifted, 0, 255).astype(np.float32)


class Canvas:
    """A picture being drawn.

    Args:
        size: width and height in pixels.
        radius: length of one plate radius in pixels.
        center: where the plate's middle lies, in pixels.
        angle: how far everything on the table is turned, in radians.
        rng: the only source of chance.
    """

    def __init__(
        self, size: tuple[int, int], radius: float, center: tuple[float, float], angle: float, rng: np.random.Generator
    ) -> None:
        self.width, self.height = size
        self.radius, self.center, self.angle, self.rng = radius, center, angle, rng
        self.rgb = np.full((self.height, self.width, 3), 200, np.float32)
        lean = rng.uniform(-0.35, 0.35)
        light = np.array([-0.5 + lean, -0.62, 0.72])
        light = light / np.linalg.norm(light)
        halfway = light + np.array([0.0, 0.0, 1.0])
        # Python's floats, here and below: numpy's would make every picture they touch float64, at twice the time.
        self.light, self.halfway = light.tolist(), (halfway / np.linalg.norm(halfway)).tolist()

    # -- places -------------------------------------------------------------------------------------------------
    def pixels(self, x: float, y: float) -> tuple[float, float]:
        """Plate radii to pixels."""
        c, s = math.cos(self.angle), math.sin(self.angle)
        return self.center[0] + self.radius * (c * x - s * y), self.center[1] + self.radius * (s * x + c * y)

    def _window(self, at: tuple[float, float], reach: float) -> tuple[slice, slice] | None:
        x, y = self.pixels(*at)
        r = reach * self.radius + 3
        left, right = max(int(x - r), 0), min(int(x + r) + 1, self.width)
        top, bottom = max(int(y - r), 0), min(int(y + r) + 1, self.height)
        return None if right - left < 2 or bottom - top < 2 else (slice(top, bottom), slice(left, right))

    def _local(self, window: tuple[slice, slice], at: tuple[float, float], turn: float) -> tuple[Array, Array]:
        x, y = self.pixels(*at)
        rows, cols = window
        dx = (np.arange(cols.start, cols.stop, dtype=np.float32)[None, :] - np.float32(x)) / np.float32(self.radius)
        dy = (np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] - np.float32(y)) / np.float32(self.radius)
        c, s = np.float32(np.cos(self.angle + turn)), np.float32(np.sin(self.angle + turn))
        return c * dx + s * dy, c * dy - s * dx

    def noise(self, shape: tuple[int, int], cell: float) -> Array:
        """Smooth noise of about -1..1 whose blots are ``cell`` pixels wide."""
        rows, cols = (max(2, int(n / cell) + 2) for n in shape)
        coarse = self.rng.uniform(-1, 1, (rows, cols)).astype(np.float32)
        return np.asarray(Image.fromarray(coarse).resize((shape[1], shape[0]), Image.Resampling.BICUBIC))

    # -- drawing ------------------------------------------------------------------------------------------------
    def solid(
        self,
        shape: Shape,
        color: Color | Callable[[Array, Array, Array], Array],
        at: tuple[float, float] = (0.0, 0.0),
        turn: float = 0.0,
        *,
        rise: float = 1.0,
        bevel: float | None = None,
        gloss: float = 0.25,
        shine: float = 24,
        bump: Callable[[Array, Array, Array], Array] | None = None,
        grain: float = 0.0,
        alpha: float = 1.0,
        shadow: float = 0.45,
        soft: float = 0.0,
    ) -> None:
        """Draw a body.

        Args:
            shape: its outline.
            color: RGB 0-255, or a function of (u, v, distance) giving (h,w,3).
            at, turn: its place and direction on the plate.
            rise: 0 is flat, 1 as high as its bevel is wide, negative hollow.
            bevel: the width of the rounded edge (the shape's own by default: round all over).
            gloss, shine: strength and sharpness of the highlight.
            bump: a further height in plate radii, from (u, v, distance).
            grain: roughness of the surface.
            alpha: how opaque it is.
            shadow: how dark its shadow is.
            soft: width of a blurred edge, for liquids and stains.
        """
        width = shape.bevel if bevel is None else bevel
        drop = 0.35 * width * max(rise, 0.2) if shadow else 0.0
        window = self._window(at, shape.extent + 2 * drop + soft)
        if window is None:
            return
        u, v = self._local(window, at, turn)
        d = shape.distance(u, v)
        if shadow:
            self._shade(window, shape, at, turn, drop, shadow)
        cover = np.clip(0.5 - d / max(soft, 1 / self.radius), 0, 1) * alpha
        t = np.clip(-d / width, 0, 1)
        height = rise * width * np.sqrt(np.maximum(1 - (1 - t) ** 2, 0))
        if bump is not None:
            height = height + np.asarray(bump(u, v, d), np.float32)
        if grain:
            height = height + grain * 0.02 * self.noise(d.shape, 2.2)
        paint = np.asarray(color(u, v, d) if callable(color) else color, np.float32)
        lit = self._lit(height * self.radius, paint, gloss, shine)
        self.rgb[window] += cover[..., None] * (lit - self.rgb[window])

    def _shade(self, window, shape: Shape, at, turn: float, drop: float, dark: float) -> None:
        """Darken what lies under a body, on the side away from the light."""
        x, y = self.pixels(*at)
        k = drop * self.radius / self.light[2]
        c, s = math.cos(self.angle), math.sin(self.angle)
        dx, dy = (
            (x - self.light[0] * k - self.center[0]) / self.radius,
            (y - self.light[1] * k - self.center[1]) / self.radius,
        )
        u, v = self._local(window, (c * dx + s * dy, c * dy - s * dx), turn)
        depth = np.clip(0.5 - shape.distance(u, v) / (drop * 1.6 + 2 / self.radius), 0, 1)
        self.rgb[window] *= (1 - dark * depth)[..., None]

    def _lit(self, height: Array, paint: Array, gloss: float, shine: float) -> Array:
        gy, gx = np.gradient(height)
        norm = 1 / np.sqrt(gx * gx + gy * gy + 1)
        facing = (self.light[2] - gx * self.light[0] - gy * self.light[1]) * norm
        diffuse = 0.42 + 0.8 * np.maximum(facing, 0)
        lit = paint * diffuse[..., None]
        if gloss:
            mirror = np.maximum((self.halfway[2] - gx * self.halfway[0] - gy * self.halfway[1]) * norm, 0)
            # What faces straight up mirrors the sky, not the lamp: only slopes glitter.
            glint = mirror**shine * np.clip((gx * gx + gy * gy) * 12, 0, 1)
            lit = lit + (255 * gloss) * glint[..., None]
        return lit

    def bits(
        self,
        count: int,
        shape: Callable[[], Shape],
        colors: Sequence[Color],
        spread: float | Callable[[], tuple[float, float]],
        **kwargs,
    ) -> None:
        """Scatter small bodies (scallions, sesame, minced meat) within a radius, or where ``spread()`` says."""
        for _ in range(count):
            if callable(spread):
                at = spread()
            else:
                a, r = self.rng.uniform(0, 2 * np.pi), spread * np.sqrt(self.rng.uniform())
                at = (r * np.cos(a), r * np.sin(a))
            color = vary(self.rng, colors[self.rng.integers(len(colors))], 12)
            self.solid(shape(), color, at, self.rng.uniform(0, 2 * np.pi), **kwargs)

    def strands(self, lines: Sequence[Array], width: float, color: Color) -> None:
        """Draw round strings (noodles, twine) along lines of (n,2) points, the later above the earlier."""
        scale = 2
        layer = Image.new('RGBA', (self.width * scale, self.height * scale), (0, 0, 0, 0))
        pen = ImageDraw.Draw(layer)
        base = np.asarray(color, np.float32)
        px = max(width * self.radius * scale, 2.0)
        for line in lines:
            points = [tuple(scale * p for p in self.pixels(*xy)) for xy in line]
            tone = vary(self.rng, base, 7)
            for share, factor, shift in ((1.35, 0.5, 0.12), (1.0, 0.92, 0.0), (0.4, 1.14, -0.16)):
                fill = (*(int(c) for c in np.clip(tone * factor, 0, 255)), 255 if factor > 0.6 else 150)
                moved = [(x + shift * px, y + shift * px) for x, y in points]
                pen.line(moved, fill=fill, width=max(1, round(px * share)), joint='curve')
        small = np.asarray(layer.resize((self.width, self.height), Image.Resampling.BOX), np.float32)
        cover = small[..., 3:] / 255
        self.rgb += cover * (small[..., :3] - self.rgb)

    def finish(self) -> Image.Image:
        """The picture, with the lens's dark corners and the sensor's noise."""
        y = np.linspace(-1, 1, self.height, dtype=np.float32)[:, None]
        x = np.linspace(-1, 1, self.width, dtype=np.float32)[None, :]
        rgb = self.rgb * (1 - 0.16 * (x * x + y * y))[..., None]
        warmth = 1 + self.rng.uniform(-0.05, 0.05) * np.array([1, 0.1, -1], np.float32)
        rgb = rgb * warmth * np.float32(self.rng.uniform(0.92, 1.1))
        rgb += self.rng.normal(0, 2.0, (*rgb.shape[:2], 1)).astype(np.float32)
        return Image.fromarray(np.clip(rgb, 0, 255).astype(np.uint8))
