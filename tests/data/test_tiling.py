"""The compiled kernel and the Pillow code against Pillow itself."""

from __future__ import annotations

import threading

import numpy as np
import PIL
import pytest
import torch
from PIL import Image

from mmft.data.pictures import tiling
from mmft.data.pictures.tiling import (
    Place,
    columns_first,
    cut_tiles,
    native,
    place_native,
    place_pillow,
    place_tiles,
    resize,
)


def random_picture(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    if rng.random() < 0.3:  # hard edges: overshoot that must be clipped on both sides
        pixels = np.where(pixels > 127, np.uint8(255), np.uint8(0))
    return Image.fromarray(pixels)


def by_definition(image: Image.Image, columns: int, rows: int, size: int, thumbnail: bool) -> torch.Tensor:
    """Resize, then crop one tile after the other."""
    stretched = resize(image, columns * size, rows * size)
    corners = [(column * size, row * size) for row in range(rows) for column in range(columns)]
    tiles = [stretched.crop((x, y, x + size, y + size)) for x, y in corners]
    tiles += [resize(image, size, size)] * thumbnail
    return torch.from_numpy(np.stack([np.asarray(tile) for tile in tiles])).permute(0, 3, 1, 2)


def in_grid(columns: int, rows: int, size: int, thumbnail: bool = False) -> tuple[list[Place], int]:
    """The places of ``cut_tiles``."""
    places = [Place(columns * size, rows * size, 0, 0, columns, rows), Place(size, size, 0, 0, 1, 1)]
    return places[: 1 + thumbnail], size


def test_the_kernel_is_built_and_used(monkeypatch):
    assert native() is not None, 'mmft/data/pictures/_tiling.c was not compiled at installation'
    image = random_picture(np.random.default_rng(0), 30, 20)
    want = cut_tiles(image, 2, 1, 16, True)
    monkeypatch.setattr(tiling, 'native', lambda: None)
    assert torch.equal(cut_tiles(image, 2, 1, 16, True), want)


@pytest.mark.parametrize('seed', range(8))
def test_every_way_gives_the_same_pixels(seed):
    rng = np.random.default_rng(seed)
    for _ in range(40):
        width, height = (int(rng.integers(1, rng.choice([4, 20, 100, 400]))) for _ in range(2))
        columns, rows = (int(value) for value in rng.integers(1, 5, 2))
        size, thumbnail = int(rng.choice([1, 2, 3, 7, 14, 16, 17, 28, 56, 65])), bool(rng.integers(2))
        image = random_picture(rng, width, height)
        want = by_definition(image, columns, rows, size, thumbnail)
        case = (image, columns, rows, size, thumbnail)
        places = in_grid(*case[1:])
        assert torch.equal(place_pillow(image, *places), want), case
        assert torch.equal(place_native(image, *places), want), case
        assert torch.equal(place_native(image, *places, vectors=False), want), case


def on_a_canvas(image: Image.Image, places: list[Place], size: int) -> torch.Tensor:
    """Stretch, paste, then crop one tile after the other."""
    tiles = []
    for place in places:
        canvas = np.zeros((place.rows * size, place.columns * size, 3), np.uint8)
        stretched = np.asarray(resize(image, place.width, place.height))
        for y in range(canvas.shape[0]):
            for x in range(canvas.shape[1]):
                if 0 <= y - place.top < place.height and 0 <= x - place.left < place.width:
                    canvas[y, x] = stretched[y - place.top, x - place.left]
        corners = [(y * size, x * size) for y in range(place.rows) for x in range(place.columns)]
        tiles += [canvas[y : y + size, x : x + size] for y, x in corners]
    return torch.from_numpy(np.stack(tiles)).permute(0, 3, 1, 2)


@pytest.mark.parametrize('seed', range(6))
def test_cropped_and_padded_pictures(seed):
    """A picture that reaches over the edges of its canvas, or leaves some of it black."""
    rng = np.random.default_rng(100 + seed)
    for _ in range(12):
        width, height, new_width, new_height = (int(value) for value in rng.integers(1, 70, 4))
        columns, rows, size = int(rng.integers(1, 4)), int(rng.integers(1, 4)), int(rng.choice([5, 8, 16]))
        left = int(rng.integers(1 - new_width, columns * size))
        top = int(rng.integers(1 - new_height, rows * size))
        image = random_picture(rng, width, height)
        places = [Place(size, size, 0, 0, 1, 1), Place(new_width, new_height, left, top, columns, rows)]
        for chosen in (places, places[1:], places[::-1]):
            want = on_a_canvas(image, chosen, size)
            case = (width, height, chosen, size)
            assert torch.equal(place_pillow(image, chosen, size), want), case
            assert torch.equal(place_native(image, chosen, size), want), case
            assert torch.equal(place_native(image, chosen, size, vectors=False), want), case
    assert torch.equal(place_tiles(image, places, size), on_a_canvas(image, places, size))


@pytest.mark.parametrize(('width', 'height'), [(2600, 1800), (1700, 2700), (70000, 4)])
def test_large_pictures_which_pillow_keeps_in_several_blocks(width, height):
    image = random_picture(np.random.default_rng(1), width, height)
    for case in ((image, 3, 2, 56, True), (image, 1, 1, 28, False)):
        assert torch.equal(place_native(case[0], *in_grid(*case[1:])), by_definition(*case))


def test_without_shared_memory(monkeypatch):
    # Pillow before 11.2 shares nothing, and pixels are copied strip by strip.
    monkeypatch.setattr(tiling, '_shared_pixels', lambda image: None)
    case = (random_picture(np.random.default_rng(2), 90, 200), 2, 2, 28, True)
    assert torch.equal(place_native(case[0], *in_grid(*case[1:])), by_definition(*case))


def test_order_of_the_passes():
    """Where columns come first, so do they here: rounding in between makes it visible."""
    rng = np.random.default_rng(3)
    turned = 0
    for _ in range(300):
        width, height, new_width, new_height = (int(value) for value in rng.integers(1, 80, 4))
        image = random_picture(rng, width, height)
        rows_first = image.resize((new_width, height)).resize((new_width, new_height))
        cols_first = image.resize((width, new_height)).resize((new_width, new_height))
        first = columns_first(width, height, new_width, new_height)
        got = np.asarray(resize(image, new_width, new_height))
        np.testing.assert_array_equal(got, np.asarray(cols_first if first else rows_first))
        turned += first
        if not first or int(PIL.__version__.split('.')[0]) >= 13:
            np.testing.assert_array_equal(got, np.asarray(image.resize((new_width, new_height))))
    assert 20 < turned < 280


def test_threads_do_not_disturb_each_other():
    rng = np.random.default_rng(4)
    cases = [(random_picture(rng, 100 + 30 * i, 160), 2, 2, 28, True) for i in range(4)]
    results: dict[int, torch.Tensor] = {}

    def work(index: int) -> None:
        for _ in range(5):
            results[index] = place_native(cases[index][0], *in_grid(*cases[index][1:]))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(cases))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, case in enumerate(cases):
        assert torch.equal(results[index], by_definition(*case))
