"""From JPEG bytes to tiles, on one thread: images per second of mmft and of what others do, measured in one run.

    python benchmarks/tiling.py [--rounds 5] [--json out.json]

The pictures are made here from a seed: photograph-like, 0.2 to 12 megapixels, both orientations, JPEG quality 90. Every
method gets the same bytes and cuts up to 12 tiles of 448 px and a thumbnail. The uint8 tiles of mmft are compared with
the plain ones, and must be equal to the last bit. (mmft gives the pixels of Pillow 13 with any Pillow. An older one
resamples some thumbnails of upright pictures in another order: the comparison, not the timing, makes up for that.)

plain         Pillow opens, resizes and crops; torchvision's ToTensor and Normalize on every tile; stacked (float32)
transformers  the image processor that transformers uses for InternVL (float32)
decode        Pillow opens and decodes, nothing else: what no method can go below
mmft uint8    DynamicTiler.from_bytes: what the data loader does
mmft float    the same, and the normalisation that the model otherwise does on its device
"""

from __future__ import annotations

import os

os.environ.setdefault('OMP_NUM_THREADS', '1')

import argparse
import io
import json
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torchvision import transforms
from transformers.models.got_ocr2 import GotOcr2ImageProcessor

from mmft.data.pictures.tilers import DynamicTiler, load_image
from mmft.data.pictures.tiling import native
from mmft.data.pictures.tiling import resize as pillow13_resize

MEGAPIXELS = (0.2, 0.4, 0.8, 1.2, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TILE, MAX_TILES = 448, 12


def photographs(seed: int = 0) -> list[bytes]:
    """JPEG files: smooth shapes at several scales and sensor noise, which is what a photograph costs to decode."""
    rng = np.random.default_rng(seed)
    files = []
    for index, megapixels in enumerate(MEGAPIXELS):
        ratio = (4 / 3, 3 / 4, 3 / 2, 16 / 9, 2 / 3)[index % 5]
        width = round((megapixels * 1e6 * ratio) ** 0.5)
        height = round(megapixels * 1e6 / width)
        picture = np.full((height, width, 3), 128, np.float32)
        for cells, strength in ((6, 90), (40, 40), (200, 20)):
            coarse = rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
            smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
            picture += (np.asarray(smooth, np.float32) - 128) * (strength / 128)
        picture += rng.normal(0, 4, (height, width, 1)).astype(np.float32)
        buffer = io.BytesIO()
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(buffer, 'JPEG', quality=90)
        files.append(buffer.getvalue())
    return files


def pillow_resize(image: Image.Image, width: int, height: int) -> Image.Image:
    return image.resize((width, height))


def plain_tiles(data: bytes, grid: tuple[int, int], resize: Callable = pillow_resize) -> list[Image.Image]:
    """Tiles as a plain program makes them: resize, then crop one tile after the other."""
    image = Image.open(io.BytesIO(data)).convert('RGB')
    columns, rows = grid
    stretched = resize(image, columns * TILE, rows * TILE)
    tiles = [
        stretched.crop((column * TILE, row * TILE, (column + 1) * TILE, (row + 1) * TILE))
        for row in range(rows)
        for column in range(columns)
    ]
    return [*tiles, resize(image, TILE, TILE)] if len(tiles) > 1 else tiles


def decode(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def methods(files: list[bytes]) -> dict[str, Callable[[bytes], object]]:
    """The competitors. The plain one is given its grid, so that it stays a measure of pixels, not of a search loop."""
    tiler = DynamicTiler(max_tiles=MAX_TILES, tile_size=TILE)
    grids = {id(data): tiler.grid(*load_image(data).size) for data in files}
    to_float = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    theirs = GotOcr2ImageProcessor(
        size={'height': TILE, 'width': TILE},
        crop_to_patches=True,
        max_patches=MAX_TILES,
        image_mean=MEAN,
        image_std=STD,
    )
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (MEAN, STD))
    return {
        'plain': lambda data: torch.stack([to_float(tile) for tile in plain_tiles(data, grids[id(data)])]),
        'transformers': lambda data: theirs(Image.open(io.BytesIO(data)).convert('RGB'), return_tensors='pt'),
        'decode': decode,
        'mmft uint8': tiler.from_bytes,
        'mmft float': lambda data: tiler.from_bytes(data).to(torch.float32).div_(255).sub_(mean).div_(std),
    }


def check_pixels(files: list[bytes]) -> int:
    """Compare every tile with the plain ones; returns the number of tiles."""
    tiler, total = DynamicTiler(max_tiles=MAX_TILES, tile_size=TILE), 0
    for data in files:
        size = load_image(data).size
        tiles = plain_tiles(data, tiler.grid(*size), resize=pillow13_resize)
        want = torch.from_numpy(np.stack([np.asarray(tile) for tile in tiles])).permute(0, 3, 1, 2)
        assert torch.equal(tiler.from_bytes(data), want), f'other pixels for a picture of {size}'
        total += len(want)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=5, help='the median round counts (default: 5)')
    parser.add_argument('--json', help='write the figures to this file')
    args = parser.parse_args()
    torch.set_num_threads(1)
    files = photographs()
    tiles = check_pixels(files)
    print(f'{len(files)} JPEG files of {MEGAPIXELS[0]}-{MEGAPIXELS[-1]} megapixels')
    print(f'{tiles} tiles, all equal to the plain ones')
    print(f'compiled kernel: {"yes" if native() else "no, Pillow alone"}')

    contenders = methods(files)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(args.rounds + 1):  # the first round warms up
        for name, run in contenders.items():
            start = time.perf_counter()
            for data in files:
                run(data)
            seconds[name].append(time.perf_counter() - start)
    rate = {name: len(files) / statistics.median(times[1:]) for name, times in seconds.items()}
    for name, value in rate.items():
        print(f'{name:13s} {value:6.1f} images/s   {value / rate["plain"]:5.2f} x plain')
    if args.json:
        with open(args.json, 'w', encoding='utf-8') as stream:
            json.dump({'images_per_second': rate, 'tiles': tiles, 'compiled': native() is not None}, stream, indent=1)


if __name__ == '__main__':
    main()
