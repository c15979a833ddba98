"""JPEG augmentation against Pillow itself: every tile is what one of the original's 26 qualities makes of it."""

from __future__ import annotations

import io
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from mmft.data.pictures.augment import jpeg_tiles
from mmft.data.records.dataset import ChatDataset
from mmft.engine.build import build_dataloader
from mmft.errors import ConfigError
from tests.data.test_dataset import ask, write
from tests.export.tiny import make_encoder

QUALITIES = range(75, 101)
"""``internvl_chat/internvl/train/dataset.py``: ``qualities = list(range(75, 101))``."""


def noise(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def qualities_of(tiles: torch.Tensor, seen: torch.Tensor) -> list[int]:
    """Which quality made each of ``seen``."""
    found = []
    for tile, result in zip(tiles, seen, strict=True):
        fits = []
        for quality in QUALITIES:
            output = io.BytesIO()
            Image.fromarray(np.ascontiguousarray(tile.numpy().transpose(1, 2, 0))).save(output, 'JPEG', quality=quality)
            fits += [quality] if np.array_equal(Image.open(output), result.numpy().transpose(1, 2, 0)) else []
        assert len(fits) == 1, fits
        found += fits
    return found


def test_each_tile_has_a_quality_of_its_own():
    tiles = noise(200)
    seen = jpeg_tiles(tiles, np.random.default_rng(0))
    assert (seen.dtype, seen.shape) == (tiles.dtype, tiles.shape)
    counts = Counter(qualities_of(tiles, seen))
    assert set(counts) == set(QUALITIES)  # of 200 tiles each of 26 qualities has some
    assert max(counts.values()) < 25
    assert torch.equal(seen, jpeg_tiles(tiles, np.random.default_rng(0)))
    assert torch.equal(tiles, noise(200)), 'the tiles themselves are left alone'


@pytest.fixture(scope='module')
def encoder():
    return make_encoder()


@pytest.fixture
def photos(tmp_path):
    """Two pictures and a text."""
    for name, seed in (('a.png', 1), ('b.png', 2)):
        pixels = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    return write(tmp_path / 'all.jsonl', ask(), ask(image='b.png'), ask(question='Hi', image=None))


def test_a_dataset(photos, encoder):
    plain, one, two = (ChatDataset(photos, encoder=encoder, data_augment=on) for on in (False, True, True))
    other = ChatDataset(photos, encoder=encoder, data_augment=True, seed=1)
    for i in range(2):
        tiles = plain[i].pixel_values
        assert qualities_of(tiles, one[i].pixel_values)
        assert torch.equal(one[i].pixel_values, two[i].pixel_values)  # a sample depends on its number and the seed
        assert torch.equal(one[i].input_ids, plain[i].input_ids)
    assert any(not torch.equal(one[i].pixel_values, other[i].pixel_values) for i in range(2))
    assert one[2].pixel_values is None
    with pytest.raises(ConfigError, match=r"data_augment 'yes'\n  expected: True, False or None"):
        ChatDataset(photos, data_augment='yes')


def test_sets_of_a_meta_file_in_training_only(photos, encoder, caplog):
    entry = {'root': str(photos.parent), 'annotation': str(photos)}
    meta = {'plain': {**entry, 'data_augment': False}, 'worse': {**entry, 'data_augment': True}}
    cfg = {'dataset': {'meta_file': meta}}
    training, validation = (build_dataloader(cfg, encoder, 0, training=on).dataset for on in (True, False))
    plain = ChatDataset(meta_file=meta, encoder=encoder)
    for i in range(6):
        want = plain[i].pixel_values
        assert want is None or torch.equal(validation[i].pixel_values, want)
        if want is not None and i < 3:
            assert torch.equal(training[i].pixel_values, want)
        elif want is not None:
            assert qualities_of(want, training[i].pixel_values)
            assert not torch.equal(training[i].pixel_values, want)
    never = build_dataloader({'dataset': {'meta_file': meta, 'data_augment': False}}, encoder, 0).dataset
    assert torch.equal(never[3].pixel_values, plain[3].pixel_values)
    ChatDataset(meta_file={'odd': {**entry, 'data_augment': 'no'}}, encoder=encoder)
    assert "`data_augment` of the set 'odd' is 'no', taken as True" in caplog.text
