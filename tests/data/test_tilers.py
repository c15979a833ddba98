"""Image processors: grids, pixels and counts of the original InternVL."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pytest
import torch
from PIL import Image

from mmft.data.pictures.tilers import DynamicTiler, ImageProcessor, PadSquare, Resize, candidate_grids, load_image
from mmft.data.pictures.tiling import native
from mmft.errors import ConfigError, DataError
from mmft.registry import IMAGE_PROCESSORS
from tests.helpers import GOLDEN, golden_json, golden_tensors

GRIDS, PIXELS = 'internvl_dynamic_grid', 'internvl_pixels'
NORMALIZE = {  # mean, std of torchvision's Normalize in the original
    'imagenet': ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    'clip': ((0.4814546, 0.4578275, 0.40821073), (0.2686295, 0.2613025, 0.2757711)),
    'siglip': ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
CASES = {case['key']: case for case in golden_json(PIXELS, 'cases.json')}
CONVERTED = [key for key in CASES if 'unconverted' not in key]


def processor_of(case: dict) -> ImageProcessor:
    if 'min_num' in case:
        return DynamicTiler(case['min_num'], case['max_num'], case['image_size'], case['use_thumbnail'])
    return (PadSquare if case['pad2square'] else Resize)(case['image_size'])


def sha256(array: torch.Tensor) -> str:
    return hashlib.sha256(array.contiguous().numpy().tobytes()).hexdigest()


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width + height).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize(('limits', 'grids'), golden_json(GRIDS, 'candidate_ratios_in_order.json').items())
def test_candidates_in_the_order_of_the_original(limits, grids):
    assert candidate_grids(*map(int, limits.split('-'))) == tuple(map(tuple, grids))


def test_candidate_counts_of_the_original():
    for limits, count in golden_json(GRIDS, 'candidate_ratio_counts.json').items():
        assert len(candidate_grids(*map(int, limits.split('-')))) == count


def test_grids_of_the_original():
    rows = golden_json(GRIDS, 'grid.json')['rows']
    assert len(rows) == 600
    for width, height, low, high, size, best, without, with_thumbnail in rows:
        tiler = DynamicTiler(low, high, size)
        assert tiler.grid(width, height) == tuple(best)
        assert tiler.num_tiles(width, height) == with_thumbnail
        assert tiler.num_tokens(width, height, 256) == 256 * with_thumbnail
        assert DynamicTiler(low, high, size, thumbnail=False).num_tiles(width, height) == without
        if low == 1:  # a limit given with the call is as good as one given before
            assert DynamicTiler(low, 99, size).grid(width, height, max_tiles=high) == tuple(best)


@pytest.mark.parametrize('key', CONVERTED)
def test_pixels_of_the_original(key, monkeypatch):
    case = CASES[key]
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in NORMALIZE[case['normalize_type']])
    image, processor = load_image(GOLDEN / PIXELS / case['image'], background=None), processor_of(case)
    for library in (native(), None):  # compiled, and through Pillow
        monkeypatch.setattr('mmft.data.pictures.tiling.native', lambda library=library: library)
        tiles = processor(image)
        assert tiles.dtype == torch.uint8
        assert len(tiles) == processor.num_tiles(*image.size) == case.get('tiles', 1)
        assert list(processor.grid(*image.size)) == case.get('grid', [1, 1])
        if 'tiles_uint8_sha256' in case:
            assert sha256(tiles.permute(0, 2, 3, 1)) == case['tiles_uint8_sha256']
        assert sha256(tiles.float().div(255).sub(mean).div(std)) == case['sha256_float32']


def test_stored_arrays_of_the_original():
    compared = 0
    for name, want in golden_tensors(PIXELS, 'arrays').items():
        key, kind = name.rsplit('/', 1)
        if 'unconverted' in key or kind != 'uint8':
            continue
        case = CASES[key]
        image = load_image(GOLDEN / PIXELS / case['image'], background=None)
        tiles = processor_of(case)(image).permute(0, 2, 3, 1)
        torch.testing.assert_close(tiles, want.view(tiles.shape), rtol=0, atol=0)
        compared += 1
    assert compared >= 20


@pytest.mark.parametrize('key', [key for key in CASES if 'unconverted' in key])
def test_pictures_are_made_rgb_before_they_are_tiled(key):
    # Bug of the original: dynamic_preprocess given a palette or bilevel picture resizes it with NEAREST, and an RGBA
    # one with colours weighted by alpha. Its own data set converts to RGB first; so does the tiler, always.
    case = CASES[key]
    with Image.open(GOLDEN / PIXELS / case['image']) as image:
        tiles = processor_of(case)(image)
        shown = load_image(GOLDEN / PIXELS / case['image'])  # with alpha: on white
        assert torch.equal(tiles, processor_of(case)(shown))
    same = sha256(tiles.permute(0, 2, 3, 1)) == case['tiles_uint8_sha256']
    assert same == (case['mode'] in ('L', 'LA'))


@pytest.mark.parametrize(
    'config',
    [
        {'type': 'DynamicTiler', 'min_tiles': 2, 'max_tiles': 5, 'tile_size': 28, 'thumbnail': False},
        {'type': 'DynamicTiler', 'min_tiles': 1, 'max_tiles': 12, 'tile_size': 56, 'thumbnail': True},
        {'type': 'Resize', 'tile_size': 32},
        {'type': 'PadSquare', 'tile_size': 32, 'mean': [0.1, 0.2, 0.3]},
    ],
)
def test_a_processor_is_its_config(config):
    processor = IMAGE_PROCESSORS.build(dict(config))
    assert processor.to_dict() == config
    assert IMAGE_PROCESSORS.build(processor.to_dict()).to_dict() == config
    assert config['type'] in repr(processor)


@pytest.mark.parametrize('name', IMAGE_PROCESSORS.names())
def test_every_processor_keeps_its_promises(name):
    size = 28
    processor = IMAGE_PROCESSORS.build({'type': name, 'tile_size': size})
    assert isinstance(processor, ImageProcessor)
    for width, height in ((1, 1), (1, 90), (200, 3), (30, 30), (97, 41), (40, 130)):
        image = noise(width, height)
        tiles = processor(image)
        assert tiles.dtype == torch.uint8
        assert tuple(tiles.shape) == (processor.num_tiles(width, height), 3, size, size)
        columns, rows = processor.grid(width, height)
        assert columns * rows <= len(tiles)
        assert torch.equal(tiles, processor(image))


def test_max_tiles_of_one_call():
    tiler, image = DynamicTiler(max_tiles=12, tile_size=28), noise(80, 60)
    for limit in (1, 2, 5, 12):
        want = DynamicTiler(max_tiles=limit, tile_size=28)
        assert tiler.grid(80, 60, max_tiles=limit) == want.grid(80, 60)
        assert tiler.num_tiles(80, 60, max_tiles=limit) == want.num_tiles(80, 60)
        assert tiler.num_tokens(80, 60, 7, max_tiles=limit) == want.num_tokens(80, 60, 7)
        assert torch.equal(tiler(image, max_tiles=limit), want(image))
    # No grid has 4 tiles or more and 2 or fewer: the original falls back on a single tile.
    assert DynamicTiler(min_tiles=4, tile_size=28).grid(80, 60, max_tiles=2) == (1, 1)


def test_from_bytes_turns_the_picture_first():
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    noise(90, 40).save(buffer, 'JPEG', exif=exif)
    tiler = DynamicTiler(max_tiles=4, tile_size=28)
    tiles = tiler.from_bytes(buffer.getvalue())
    assert torch.equal(tiles, tiler(load_image(buffer.getvalue())))
    assert len(tiles) == tiler.num_tiles(40, 90)


def test_pad_square_of_llava_and_internvl():
    # The original truncates mean * 255: CLIP's mean gives (122, 116, 104), not the rounded (123, 117, 104).
    assert PadSquare(mean=NORMALIZE['clip'][0]).colour == (122, 116, 104)
    assert PadSquare(mean=NORMALIZE['imagenet'][0]).colour == (123, 116, 103)
    tile = PadSquare(tile_size=6)(Image.new('RGB', (6, 1), 'white'))[0, 0]
    assert tile[:, 0].tolist() == [123, 123, 255, 123, 123, 123]


@pytest.mark.parametrize(
    'build',
    [
        lambda: DynamicTiler(min_tiles=0),
        lambda: DynamicTiler(min_tiles=3, max_tiles=2),
        lambda: DynamicTiler(tile_size=0),
        lambda: DynamicTiler().grid(10, 10, max_tiles=0),
        lambda: PadSquare(mean=(123.675, 116.28, 103.53)),
        lambda: PadSquare(mean=(0.5, 0.5)),
        lambda: IMAGE_PROCESSORS.build({'type': 'DynamicTyler'}),
    ],
)
def test_settings_that_cannot_work(build):
    with pytest.raises(ConfigError):
        build()


def test_a_line_is_not_padded_to_a_square_that_fills_the_memory():
    with pytest.raises(DataError, match='60000x60000'):
        PadSquare(28)(Image.new('RGB', (60000, 1)))


@pytest.mark.parametrize(('most', 'shares'), [(12, [12, 12, 6, 4, 3, 2]), (1, [1, 1, 1, 1, 1, 1])])
def test_pictures_share_the_tiles_of_a_sample(most, shares):
    """OpenGVLab's ``max(1, max_dynamic_patch // num_image)``; without a picture nothing is divided by 0."""
    assert [DynamicTiler(max_tiles=most).share(n) for n in (0, 1, 2, 3, 4, 5)] == shares
    assert [PadSquare(28).share(n) for n in (0, 1, 5)] == [None] * 3
