"""Opening pictures: every kind of file that is one, and a clear error for every kind that is not."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from mmft.data.pictures.loading import MAX_SIDE, image_size, load_image, to_rgb
from mmft.errors import DataError
from mmft.words import printable

RNG = np.random.default_rng(0)


def picture(width: int = 60, height: int = 40, mode: str = 'RGB') -> Image.Image:
    """Smooth colours, so that JPEG does little harm."""
    coarse = Image.fromarray(RNG.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """The beginning of a PNG that claims a size, without any pixels."""
    body = b'IHDR' + struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack('>I', 13) + body + struct.pack('>I', zlib.crc32(body))
    return b'\x89PNG\r\n\x1a\n' + chunk + b'\x00\x00\x00\x00IDAT'


@pytest.mark.parametrize('mode', ['RGB', 'L', 'CMYK', '1', 'P', 'RGBA', 'LA', 'YCbCr', 'HSV', 'RGBX', 'PA'])
def test_every_mode_becomes_rgb_as_pillow_converts_it(mode):
    image = picture(mode='RGBA' if mode == 'PA' else 'RGB').convert(mode)
    got = load_image(image)
    assert got.mode == 'RGB'
    assert got.size == image.size
    np.testing.assert_array_equal(np.asarray(got), np.asarray(image.convert('RGB')))


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP', 'GIF', 'BMP', 'TIFF', 'PPM'])
def test_from_path_bytes_file_and_picture_alike(kind, tmp_path):
    data = encoded(picture(), kind)
    path = tmp_path / f'a.{kind.lower()}'
    path.write_bytes(data)
    want = np.asarray(Image.open(io.BytesIO(data)).convert('RGB'))
    with path.open('rb') as stream:
        for source in (path, str(path), data, stream, Image.open(io.BytesIO(data))):
            assert image_size(source) == (60, 40)
            got = load_image(source)
            assert got.mode == 'RGB'
            np.testing.assert_array_equal(np.asarray(got), want)
            np.testing.assert_array_equal(np.asarray(pickle.loads(pickle.dumps(got))), want)


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP', 'TIFF'])
def test_exif_turns(kind, orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(picture(), kind, exif=exif)
    path = tmp_path / 'a'
    path.write_bytes(data)
    got = load_image(path)
    want = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert('RGB')
    np.testing.assert_array_equal(np.asarray(got), np.asarray(want))
    assert image_size(path) == got.size == ((40, 60) if orientation >= 5 else (60, 40))
    again = load_image(got)
    np.testing.assert_array_equal(np.asarray(load_image(again.copy())), np.asarray(got))
    opened = Image.open(io.BytesIO(data))
    np.testing.assert_array_equal(np.asarray(load_image(opened)), np.asarray(got))
    assert opened.format == kind
    assert image_size(opened) == got.size


@pytest.mark.filterwarnings('ignore:Corrupt EXIF')
@pytest.mark.parametrize('exif', [b'Exif\x00\x00garbage', b'Exif\x00\x00II*\x00\xff\xff\xff\x7f', b'\x00' * 40])
def test_a_broken_exif_block_does_not_cost_the_picture(exif):
    data = encoded(picture(), 'JPEG', exif=exif)
    assert image_size(data) == load_image(data).size == (60, 40)


def test_16_bit_greys_are_scaled_not_clipped():
    # Image.convert('L') of older Pillow clips everything above 255 to white.
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    for data in (encoded(Image.fromarray(values), 'PNG'), encoded(Image.fromarray(values), 'TIFF')):
        np.testing.assert_array_equal(np.asarray(load_image(data))[..., 1], (values >> 8).astype(np.uint8))
    pgm = b'P5 256 256 65535\n' + values.astype('>u2').tobytes()
    np.testing.assert_array_equal(np.asarray(load_image(pgm))[..., 0], (values >> 8).astype(np.uint8))


@pytest.mark.parametrize('kind', ['GIF', 'WEBP', 'PNG', 'TIFF'])
def test_an_animated_picture_is_its_first_frame(kind):
    frames = [Image.new('RGB', (20, 10), colour) for colour in ('#ff0000', '#00ff00')]
    options = {'lossless': True} if kind == 'WEBP' else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 2
    assert load_image(data).getcolors() == [(200, (255, 0, 0))]


def test_without_a_background_alpha_is_dropped_as_in_the_original():
    red = Image.new('RGBA', (2, 2), (255, 0, 0, 0))
    assert load_image(red, background=None).getpixel((0, 0)) == (255, 0, 0)
    assert load_image(red).getpixel((0, 0)) == (255, 255, 255)


def test_a_transparent_palette_gives_no_warning():
    image = picture().quantize(8)
    image.info['transparency'] = bytes([0, 128] + [255] * 6)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        load_image(encoded(image, 'PNG'))
        got = load_image(encoded(image, 'PNG'), background=None)
    np.testing.assert_array_equal(np.asarray(got), np.asarray(picture_without(image, 'transparency')))


def picture_without(image: Image.Image, key: str) -> Image.Image:
    image = image.copy()
    del image.info[key]
    return image.convert('RGB')


def test_an_rgb_picture_is_not_copied_and_never_changed():
    image = picture()
    image.info['note'] = 'mine'
    assert load_image(image) is image
    assert image.info == {'note': 'mine'}


def test_one_pixel_works():
    assert load_image(encoded(Image.new('L', (1, 1), 7), 'PNG')).getpixel((0, 0)) == (7, 7, 7)


BAD_FILES = [
    'text.jpg',
    'empty.png',
    'half.jpg',
    'half.png',
    'header.jpg',
    'corrupt.png',
    'bomb.png',
    'large.png',
    'long.png',
    'float.tiff',
    'wide.tiff',
    'program.eps',
    'missing.jpg',
    'folder',
    'pipe.jpg',
    'nul',
    'bytes',
]


def bad_files(folder: Path) -> dict[str, tuple[Path | bytes, str]]:
    """Name -> (source, what the message must say)."""
    jpeg, png = encoded(picture(400, 300), 'JPEG'), encoded(picture(400, 300), 'PNG')
    corrupt = bytearray(png)
    corrupt[len(png) // 2] ^= 0xFF
    files = {
        'text.jpg': (b'these are not pixels', 'not a picture'),
        'empty.png': (b'', 'empty file'),
        'half.jpg': (jpeg[: len(jpeg) // 2], 'breaks off or is damaged'),
        'half.png': (png[: len(png) // 2], 'breaks off or is damaged'),
        'header.jpg': (jpeg[:20], 'picture'),
        'corrupt.png': (bytes(corrupt), 'breaks off or is damaged'),
        'bomb.png': (png_header(30000, 30000), '30000x30000|900000000 pixels'),
        'large.png': (png_header(12000, 12000), '12000x12000 pixels'),
        'long.png': (png_header(MAX_SIDE + 1, 1), 'sides of at most'),
        'float.tiff': (encoded(Image.new('F', (4, 4), 0.5), 'TIFF'), 'float pixels'),
        'wide.tiff': (encoded(Image.new('I', (4, 4), 70000), 'TIFF'), 'pixels from 70000'),
        'program.eps': (encoded(picture(), 'EPS'), 'PostScript'),
    }
    for name, (data, _) in files.items():
        (folder / name).write_bytes(data)
    os.mkfifo(folder / 'pipe.jpg')
    return {name: (folder / name, what) for name, (_, what) in files.items()} | {
        'missing.jpg': (folder / 'missing.jpg', 'no such picture'),
        'folder': (folder, 'a directory'),
        'pipe.jpg': (folder / 'pipe.jpg', 'a named pipe'),
        'nul': (folder / 'a\0b.jpg', 'cannot be opened'),
        'bytes': (b'\xff\xd8\xff', 'picture'),
    }


@pytest.mark.filterwarnings('ignore::PIL.Image.DecompressionBombWarning')
@pytest.mark.parametrize('name', BAD_FILES)
def test_what_is_no_picture_says_so(name, tmp_path, monkeypatch):
    # As lmdeploy 0.18 sets it for the whole process: a truncated picture must be refused all the same.
    monkeypatch.setattr(ImageFile, 'LOAD_TRUNCATED_IMAGES', True)
    source, what = bad_files(tmp_path)[name]
    with pytest.raises(DataError, match=what) as caught:
        load_image(source)
    error = caught.value
    assert error.file == ('<3 bytes>' if name == 'bytes' else str(source))
    assert error.expected or error.fix
    placed = error.at('train.jsonl', 7)
    assert str(placed).startswith(f'train.jsonl:7: {printable(error.file)}')


@pytest.mark.filterwarnings('ignore::PIL.Image.DecompressionBombWarning')
def test_size_limits_hold_before_anything_is_decoded():
    # There are no pixels in these bytes: had decoding begun, the message would be about that.
    for load in (load_image, image_size):
        with pytest.raises(DataError, match='at most 1,000 pixels'):
            load(png_header(100, 11), max_pixels=1000)
    assert image_size(png_header(100, 10), max_pixels=1000) == (100, 10)


@pytest.mark.parametrize('size', [(12_000, 12_000), (14_000, 14_000)])  # Pillow warns of the one and refuses the other
def test_a_raised_limit_is_pillows_too(size, recwarn):
    pillows = Image.MAX_IMAGE_PIXELS
    assert image_size(png_header(*size), max_pixels=size[0] * size[1]) == size
    assert not recwarn
    with pytest.raises(DataError, match='breaks off or is damaged'):
        load_image(png_header(*size), max_pixels=size[0] * size[1])
    with pytest.raises(DataError, match='raise max_pixels'):
        image_size(png_header(*size), max_pixels=size[0] * size[1] - 1)
    assert pillows == Image.MAX_IMAGE_PIXELS


def test_image_size_decodes_nothing():
    jpeg, png = encoded(picture(400, 300), 'JPEG'), encoded(picture(400, 300), 'PNG')
    assert image_size(jpeg[:1000]) == (400, 300)
    assert image_size(png[:200]) == (400, 300)


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP', 'GIF', 'BMP', 'TIFF'])
def test_damage_of_any_kind_is_a_data_error_or_harmless(kind):
    data = encoded(picture(), kind)
    for _ in range(100):
        broken = bytearray(data)
        for position in RNG.integers(0, len(data), 3):
            broken[position] = RNG.integers(256)
        broken = bytes(broken[: RNG.integers(1, 2 * len(data))])
        for load in (image_size, load_image):
            with contextlib.suppress(DataError):
                assert load(broken, max_pixels=100_000) is not None


def test_to_rgb_returns_rgb_as_it_is():
    image = picture()
    assert to_rgb(image) is image
