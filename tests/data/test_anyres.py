"""LLaVA's image processing: resolutions and pixels of the original bit for bit, and counts the model agrees with."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import LlavaNextProcessor, LlavaOnevisionConfig, LlavaOnevisionProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

from mmft.data.pictures.anyres import AnyResTiler, OneVisionTiler, select_best_resolution
from mmft.data.pictures.tilers import CenterCrop, PadSquare, load_image
from mmft.data.pictures.tiling import native
from mmft.errors import ConfigError, DataError
from mmft.geometry import arranged_tokens
from mmft.models.normalizer import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, TileNormalizer
from mmft.registry import IMAGE_PROCESSORS
from tests.helpers import GOLDEN, golden_json

BEST = golden_json('llava_anyres', 'best_resolution.json')
CASES = golden_json('llava_images', 'cases.json')
NORMALIZE = TileNormalizer(OPENAI_CLIP_MEAN, OPENAI_CLIP_STD).normalize


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width + height).integers(0, 256, (height, width, 3), dtype=np.uint8))


def sha256(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


def test_resolutions_of_the_original():
    sizes = {name: 384 if '384' in name else 224 if '224' in name else 336 for name in BEST['pinpoints']}
    tilers = {name: AnyResTiler(pinpoints, sizes[name]) for name, pinpoints in BEST['pinpoints'].items()}
    assert any(isinstance(pinpoints, str) for pinpoints in BEST['pinpoints'].values())
    assert len(BEST['rows']) > 100
    for name, width, height, best, grid in BEST['rows']:
        tiler = tilers[name]
        assert list(select_best_resolution(width, height, tiler.grid_pinpoints)) == best
        assert list(tiler.grid(width, height)) == grid
        assert tiler.num_tiles(width, height) == 1 + grid[0] * grid[1]


def test_the_default_is_llava_next():
    given = AnyResTiler([[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]], 336)
    assert AnyResTiler().to_dict() == given.to_dict()


@pytest.mark.parametrize('compiled', [True, False])
@pytest.mark.parametrize('case', CASES['images'], ids=lambda case: case['image'])
def test_pixels_of_the_original(case, compiled, monkeypatch):
    library = native() if compiled else None
    monkeypatch.setattr('mmft.data.pictures.tiling.native', lambda: library)
    image, size = load_image(GOLDEN / 'llava_images' / case['image']), CASES['crop']
    tiler = AnyResTiler(CASES['pinpoints'], size)
    pad = PadSquare(size, OPENAI_CLIP_MEAN)
    assert list(pad.colour) == case['background']
    got = {'pad': pad(image), 'plain': CenterCrop(size)(image), 'anyres': tiler(image)}
    wrong = set()
    for kind, tiles in got.items():
        want = case[kind]
        assert list(tiles.shape) == want.get('shape', [1, 1, 3, size, size])[-4:]
        if want.get('sha256_float32') != sha256(NORMALIZE(tiles)):
            wrong.add(kind)
    # Bug of the original: its CLIP processor tells the channels by the shape, so it takes a picture of 90x3 px for
    # three channels of 3x90, and refuses one of 1x1 px. Ours are those of any other picture of this size.
    assert wrong == {'90x3': {'plain'}, '1x1': {'pad', 'plain'}}.get(case['image'][6:-4], set())
    columns, rows = tiler.grid(*image.size)
    assert [columns * size, rows * size] == case['best_resolution']
    plane = tiler(image)[1:].view(rows, columns, 3, size, size).permute(0, 3, 1, 4, 2).reshape(rows * size, -1, 3)
    assert sha256(plane) == case['resize_and_pad']['uint8_sha256']


@pytest.mark.parametrize(('width', 'height'), [(3, 90), (97, 41), (60, 97), (50, 50), (24, 24), (200, 31)])
def test_pixels_of_clip_in_transformers(width, height):
    # Sizes for which every Pillow resamples rows first (see mmft/data/pictures/tiling.py).
    clip = CLIPImageProcessorPil(size={'shortest_edge': 24}, crop_size={'height': 24, 'width': 24})
    image = noise(width, height)
    want = clip(image, return_tensors='pt', input_data_format='channels_last')['pixel_values']
    assert torch.equal(NORMALIZE(CenterCrop(24)(image)), want)


@pytest.mark.parametrize('mode', ['spatial_unpad', 'spatial', 'flat'])
def test_counts(mode):
    tiler = AnyResTiler(tile_size=14, mode=mode)
    assert tiler.arranges == (mode != 'flat')
    assert tiler.tile_counts() == [3, 4, 5]
    for width, height in ((30, 30), (100, 20), (20, 100), (1, 1), (28, 56), (60, 59)):
        tiles, grid = tiler(noise(width, height)), tiler.grid(width, height)
        assert len(tiles) == tiler.num_tiles(width, height) == 1 + grid[0] * grid[1]
        unpad = mode == 'spatial_unpad'
        want = arranged_tokens((width, height), grid, 9, unpad, unpad)
        assert tiler.num_tokens(width, height, 9) == want
        if mode != 'spatial_unpad':
            assert want == 9 * len(tiles)
    if mode == 'flat':  # tokens without a place on a plane, such as a Q-Former's
        assert tiler.num_tokens(30, 30, 32) == 32 * tiler.num_tiles(30, 30)


def test_counts_of_transformers():
    counter = LlavaNextProcessor.__new__(LlavaNextProcessor)
    tiler = AnyResTiler()
    counter.patch_size, counter.num_additional_image_tokens, counter.vision_feature_select_strategy = 14, 1, 'default'
    counter.image_processor = type('P', (), {'image_grid_pinpoints': [list(p[::-1]) for p in tiler.grid_pinpoints]})
    rng = np.random.default_rng(2)
    for width, height in rng.integers(2, 2500, (300, 2)).tolist():
        assert tiler.num_tokens(width, height, 576) == counter._get_number_of_features(height, width, 336, 336) - 1


SHAPES = [(w, h) for w in (1, 3, 40, 384, 500, 777, 1024, 3000) for h in (1, 2, 55, 300, 385, 899, 1700, 5000)]


def test_onevision_counts_as_transformers():
    tiler, config = OneVisionTiler(), LlavaOnevisionConfig()
    assert [list(pair[::-1]) for pair in tiler.grid_pinpoints] == config.image_grid_pinpoints
    counter = LlavaOnevisionProcessor.__new__(LlavaOnevisionProcessor)
    counter.num_image_tokens, counter.vision_aspect_ratio = 729, config.vision_aspect_ratio
    counter.image_processor = type('', (), {'image_grid_pinpoints': config.image_grid_pinpoints})
    rng = np.random.default_rng(4)
    for width, height in [*SHAPES, *np.exp(rng.uniform(0, 9, (300, 2))).astype(int).tolist()]:
        want = counter._get_number_of_features(height, width, 384, 384)
        assert tiler.num_tokens(width, height, 729) == want


@pytest.mark.parametrize('size', [(1, 1), (3, 50), (500, 3), (57, 55), (640, 480), (1000, 100), (333, 334)])
def test_onevision_pixels_of_transformers(size):
    """A picture alone is tiled, each of several is one padded tile."""
    tiler, image = OneVisionTiler(tile_size=56, mean=OPENAI_CLIP_MEAN), noise(*size)
    pinpoints = [list(pair[::-1]) for pair in tiler.grid_pinpoints]
    theirs = LlavaOnevisionImageProcessorPil(
        size={'height': 56, 'width': 56}, image_mean=OPENAI_CLIP_MEAN, image_std=OPENAI_CLIP_STD,
        image_grid_pinpoints=pinpoints,
    )  # fmt: skip
    for count, tiles in ((1, tiler.num_tiles(*size)), (2, 1), (5, 1)):
        ours = NORMALIZE(tiler(image, tiler.share(count)))
        want = theirs([[image] * count])['pixel_values'][0]
        assert ours.shape == want.shape == (tiles, 3, 56, 56)
        torch.testing.assert_close(ours, torch.as_tensor(want), atol=1e-5, rtol=0)


def test_onevision_most_tokens():
    """What the memory plan counts: no picture has more, and some have as many."""
    tiler = OneVisionTiler()
    most = tiler.most_tokens(729)
    assert sorted(most) == tiler.tile_counts()
    found = dict.fromkeys(most, 0)
    for width, height in [
        *SHAPES,
        *((w, 2304) for w in range(384, 2304, 7)),
        *((2304, h) for h in range(384, 2304, 7)),
    ]:
        tiles, tokens = tiler.num_tiles(width, height), tiler.num_tokens(width, height, 729)
        assert tokens <= most[tiles]
        found[tiles] = max(found[tiles], tokens)
    assert max(most.values()) == 8829
    assert max(found.values()) > 8600
    assert (most[2], most[5]) == (729 + 27 * 28, 729 + 108 * 28)  # a tile, and four on top of each other
    assert tiler.most_tokens(729, 1) == {1: 730}


def test_onevision_with_fewer_tiles():
    tiler = OneVisionTiler(tile_size=14, max_tiles=4)
    assert max(tiler.tile_counts()) == 5
    assert tiler.num_tiles(2000, 2000) == 5
    assert [tiler.share(count) for count in (0, 1, 2)] == [None, None, 1]
    alone, image = OneVisionTiler(tile_size=14, max_tiles=1), noise(90, 30)
    assert alone.tile_counts() == [alone.num_tiles(90, 30)] == [1]
    assert torch.equal(alone(image), tiler(image, 1))
    assert torch.equal(alone(image), PadSquare(14, (0.5, 0.5, 0.5))(image))


def test_pictures_that_share_tiles():
    tiler = AnyResTiler(tile_size=14, max_tiles=4)
    assert tiler.grid(30, 30) == (2, 2)
    assert tiler.grid(30, 30, 3) in ((1, 2), (2, 1), (1, 3), (3, 1))
    assert tiler.tile_counts() == [3, 4, 5]
    assert tiler.tile_counts(2) == [3]
    # No grid has a single tile here: the base stands alone, and ends with one newline as in the original.
    assert tiler.grid(30, 30, 1) == (0, 0)
    assert tiler.num_tiles(30, 30, 1) == len(tiler(noise(30, 30), 1)) == 1
    assert tiler.num_tokens(30, 30, 9, 1) == 10
    assert tiler.tile_counts(1) == [1]
    assert torch.equal(tiler(noise(30, 30), 1), tiler(noise(30, 30))[:1])


def test_a_tiler_is_its_config():
    config = {'type': 'AnyResTiler', 'grid_pinpoints': [[28, 14], [14, 28]], 'tile_size': 14, 'mode': 'flat',
              'max_tiles': 6}  # fmt: skip
    assert IMAGE_PROCESSORS.build(dict(config)).to_dict() == config
    config = {'type': 'OneVisionTiler', 'grid_pinpoints': [[28, 14], [14, 28]], 'tile_size': 14, 'max_tiles': 2,
              'shrink_to': 3, 'mean': [0.5, 0.25, 0.0]}  # fmt: skip
    assert IMAGE_PROCESSORS.build(dict(config)).to_dict() == config


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        ({'grid_pinpoints': [[336, 700]]}, 'multiples of tile_size=336'),
        ({'grid_pinpoints': [[336, 0]]}, 'grid_pinpoints'),
        ({'grid_pinpoints': []}, 'grid_pinpoints'),
        ({'grid_pinpoints': '(1x1),...,(6x6)'}, 'grid_pinpoints'),
        ({'mode': 'spatial_unpadded'}, "'spatial_unpad'"),
        ({'max_tiles': 0}, 'AnyResTiler: max_tiles 0'),
    ],
)
def test_settings_that_cannot_work(arguments, words):
    with pytest.raises(ConfigError, match=words):
        AnyResTiler(**arguments)


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [({'shrink_to': 0}, 'shrink_to 0'), ({'mean': [0.5, 2, 0]}, 'mean'), ({'grid_pinpoints': [[384, 700]]}, '=384')],
)
def test_settings_of_onevision_that_cannot_work(arguments, words):
    with pytest.raises(ConfigError, match=f'OneVisionTiler: (?s:.*){words}'):
        OneVisionTiler(**arguments)


def test_a_line_is_not_enlarged_until_it_fills_the_memory():
    with pytest.raises(DataError, match='22020096 pixels'):
        CenterCrop(336)(Image.new('RGB', (65536, 1)))
