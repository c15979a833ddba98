"""Pictures as they are handed on: unchanged where every program reads them alike, else upright and plain."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from mmft.data.pictures.loading import load_image
from mmft.data.pictures.portable import portable
from mmft.errors import DataError
from tests.data.test_pillow_settings import CHUNKS, ROWS
from tests.data.test_transparency import png
from tests.export.tiny import picture


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def turned(orientation: int = 6) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


IMAGE = picture(40, 30)
KEPT = {
    'jpeg': encoded(IMAGE, 'JPEG'),
    'grey jpeg': encoded(IMAGE.convert('L'), 'JPEG'),
    'png': encoded(IMAGE, 'PNG'),
    'grey png': encoded(IMAGE.convert('L'), 'PNG'),
    'webp': encoded(IMAGE, 'WEBP'),
    'upright by its exif': encoded(IMAGE, 'JPEG', exif=turned(1)),
}
CHANGED = {
    'with alpha': (encoded(IMAGE.convert('RGBA'), 'PNG'), 'png'),
    'with a transparent colour': (encoded(IMAGE, 'PNG', transparency=(0, 0, 0)), 'png'),
    'with a palette': (encoded(IMAGE.convert('P'), 'PNG'), 'png'),
    '16 bits': (encoded(Image.fromarray(np.arange(1200, dtype='uint16').reshape(30, 40) * 50), 'PNG'), 'png'),
    'cmyk': (encoded(IMAGE.convert('CMYK'), 'JPEG'), 'png'),
    'animated': (encoded(IMAGE, 'WEBP', save_all=True, append_images=[IMAGE.rotate(180)], lossless=True), 'png'),
    'bmp': (encoded(IMAGE, 'BMP'), 'png'),
    'turned png': (encoded(IMAGE, 'PNG', exif=turned()), 'png'),
    'turned photo': (encoded(IMAGE, 'JPEG', exif=turned()), 'jpeg'),
}


@pytest.mark.parametrize('name', KEPT)
def test_what_all_read_alike_stays_as_it_is(name):
    kind, data, size = portable(KEPT[name])
    assert (data, size) == (KEPT[name], (40, 30))
    assert kind in name or kind == 'jpeg'


@pytest.mark.parametrize('name', CHANGED)
def test_the_rest_becomes_upright_and_plain(name):
    given, expected = CHANGED[name]
    kind, data, size = portable(given)
    image, want = Image.open(io.BytesIO(data)), load_image(given)
    assert (kind, image.format.lower(), image.mode) == (expected, expected, 'RGB')
    assert image.size == size == want.size == ((30, 40) if 'turned' in name else (40, 30))
    assert 'transparency' not in image.info
    assert image.getexif().get(0x0112, 1) == 1
    difference = np.abs(np.asarray(image, int) - np.asarray(want, int)).max()
    assert difference <= (6 if kind == 'jpeg' else 0)


@pytest.mark.parametrize('name', CHUNKS)
def test_a_png_is_handed_on_without_metadata(name):
    """Pillow's own limit, which holds in the backends, is 1 MiB of it."""
    given = png(8, 6, 8, 2, ROWS, CHUNKS[name])
    kind, data, size = portable(given)
    assert (kind, size) == ('png', (8, 6))
    plain = png(8, 6, 8, 2, ROWS)
    assert data == (given if name == 'a private one' else plain)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), np.asarray(load_image(plain)))


def test_a_photo_that_is_turned_stays_small():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), 'uint8')).resize((800, 600))
    given = encoded(noise, 'JPEG', exif=turned(), quality=90)
    assert len(portable(given)[1]) < 3 * len(given)


def test_a_path_is_named_where_something_is_wrong(tmp_path):
    (tmp_path / 'a.png').write_bytes(KEPT['png'])
    assert portable(tmp_path / 'a.png')[1] == KEPT['png']
    (tmp_path / 'half.png').write_bytes(KEPT['png'][:-40])
    for name, what in (('half.png', 'breaks off'), ('none.png', 'no such picture')):
        with pytest.raises(DataError, match=f'{name}: .*{what}'):
            portable(tmp_path / name)
