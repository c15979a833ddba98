"""Limits of Pillow: raised while a picture is opened, the same for all threads, and as they were afterwards."""

from __future__ import annotations

import io
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageFile, PngImagePlugin

from mmft.data.pictures.loading import image_size, load_image
from mmft.data.pictures.pillow_settings import pillow_settings
from mmft.errors import DataError
from tests.data.test_transparency import encoded, png

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8))
ROWS = [row.tobytes() for row in np.asarray(PICTURE)]
LONG = b'x' * (3 << 20)  # Pillow allows 1 MiB


def limits():
    return ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK


CHUNKS = {
    'iTXt, packed': (b'iTXt', b'XML:com.adobe.xmp\0\1\0\0\0' + zlib.compress(LONG)),
    'iTXt': (b'iTXt', b'XML:com.adobe.xmp\0\0\0\0\0' + LONG),
    'zTXt': (b'zTXt', b'note\0\0' + zlib.compress(LONG)),
    'tEXt': (b'tEXt', b'note\0' + LONG),
    'iCCP': (b'iCCP', b'profile\0\0' + zlib.compress(LONG)),
    'a private one': (b'prVt', LONG),
}


@pytest.mark.parametrize('name', CHUNKS)
def test_a_png_with_long_metadata(name):
    before = limits()
    data = png(8, 6, 8, 2, ROWS, CHUNKS[name])
    assert image_size(data) == (8, 6)
    np.testing.assert_array_equal(np.asarray(load_image(data)), np.asarray(PICTURE))
    behind = data[: data.index(b'IEND') - 4] + png(8, 6, 8, 2, [], CHUNKS[name])[33:]  # texts after the pixels
    np.testing.assert_array_equal(np.asarray(load_image(behind)), np.asarray(PICTURE))
    assert limits() == before


def test_metadata_without_end_do_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr(PngImagePlugin, 'MAX_TEXT_MEMORY', 4 << 20)
    data = png(8, 6, 8, 2, ROWS, (b'zTXt', b'note\0\0' + zlib.compress(LONG * 2)))
    for load in (load_image, image_size):
        with pytest.raises(DataError, match='beside the pixels') as error:
            load(data)
        assert 'without metadata' in error.value.fix


def test_truncated_pictures_are_refused_beside_long_metadata():
    data = png(8, 6, 8, 2, ROWS, CHUNKS['iTXt, packed'])
    with pytest.raises(DataError, match='breaks off'):
        load_image(data[:-30])


@pytest.mark.filterwarnings('ignore:Corrupt EXIF', 'ignore:Image appears to be a malformed MPO')
def test_jpegs_with_long_and_broken_segments():
    def segment(number: int, content: bytes) -> bytes:
        return bytes([0xFF, 0xE0 + number]) + (len(content) + 2).to_bytes(2, 'big') + content

    plain = encoded(PICTURE, 'JPEG')
    heads = (b'', b'II*\0', b'MM\0*\0\0\0\x08\xff\xff', b'II*\0\xff\xff\xff\x7f', b'\xff' * 900)
    broken = [b'Exif\0\0' + head for head in heads]
    others = [(2, b'MPF\0' + b'II*\0\x08\0\0\0\xff\xff'), (2, b'MPF\0'), (13, b'Photoshop 3.0\0' + b'\xff' * 50),
              (1, b'http://ns.adobe.com/xap/1.0/\0' + b'\xff' * 99), (2, b'ICC_PROFILE\0\1\xff')]  # fmt: skip
    made = [[(1, content)] for content in broken] + [[other] for other in others] + [[(15, b'x' * 65_000)] * 80]
    for segments in made:
        data = plain[:2] + b''.join(segment(*s) for s in segments) + plain[2:]
        assert image_size(data) == (8, 6), segments[0][1][:30]
        np.testing.assert_array_equal(np.asarray(load_image(data)), np.asarray(load_image(plain)))


def test_threads_do_not_restore_each_others_limits():
    """One enters while the other is inside, and leaves after it: by turns, no chance."""
    before = limits()
    inside, over = threading.Event(), threading.Event()

    def first():
        with pillow_settings(10):
            inside.set()
            over.wait(20)
            assert not ImageFile.LOAD_TRUNCATED_IMAGES
        return limits()

    ImageFile.LOAD_TRUNCATED_IMAGES = True  # as lmdeploy leaves it
    try:
        with ThreadPoolExecutor(1) as threads:
            other = threads.submit(first)
            inside.wait(20)
            with pillow_settings(500_000_000):
                assert limits() == (False, 500_000_000, PngImagePlugin.MAX_TEXT_MEMORY)
            assert not ImageFile.LOAD_TRUNCATED_IMAGES
            over.set()
            assert other.result() == (True, *before[1:])
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before[0]
    assert limits() == before


def test_many_threads_decode_and_refuse_alike():
    good = png(8, 6, 8, 2, ROWS, CHUNKS['zTXt'])
    before = limits()

    def one(number):
        if number % 2:
            with pytest.raises(DataError, match='breaks off'):
                load_image(good[:-30])
        else:
            assert load_image(io.BytesIO(good)).size == (8, 6)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(one, range(80)))
    assert limits() == before
