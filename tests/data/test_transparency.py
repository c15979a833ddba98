"""Transparent pictures: seen on a background, alike from every kind of file; opaque ones stay as they are."""

from __future__ import annotations

import io
import json
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from mmft.data import ChatDataset
from mmft.data.check import source_of, survey
from mmft.data.check.report import text, to_json
from mmft.data.pictures.loading import image_size, is_spoilt_without_alpha, load_image, to_rgb
from mmft.data.pictures.tilers import CenterCrop, DynamicTiler, PadSquare, Resize
from mmft.data.pictures.transparency import as_colour
from mmft.errors import ConfigError, DataError
from tests.export.tiny import make_encoder

RNG = np.random.default_rng(0)
LEVELS = RNG.integers(0, 256, (9, 14, 4), dtype=np.uint8)
LEVELS[:3, :, 3], LEVELS[3:5, :, 3] = 0, 255  # colours under full transparency, and opaque ones
RGBA = Image.fromarray(LEVELS)
ORANGE = (255, 128, 0)


def encoded(image: Image.Image, kind: str = 'PNG', **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, depth: int, colour: int, rows: list[bytes], *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG written by hand: Pillow writes few of the forms that it reads."""
    head = b'IHDR', struct.pack('>IIBBBBB', width, height, depth, colour, 0, 0, 0)
    pixels = b'IDAT', zlib.compress(b''.join(b'\0' + row for row in rows))
    made = [head, *chunks, pixels, (b'IEND', b'')]
    return b'\x89PNG\r\n\x1a\n' + b''.join(
        struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data)) for kind, data in made
    )


def composed(rgba: Image.Image, background: tuple[int, int, int]) -> np.ndarray:
    """As Pillow composes it."""
    canvas = Image.new('RGBA', rgba.size, (*background, 255))
    return np.asarray(Image.alpha_composite(canvas, rgba).convert('RGB'))


@pytest.mark.parametrize('background', [(255, 255, 255), (0, 0, 0), ORANGE])
def test_against_pillow_and_against_arithmetic(background):
    got = np.asarray(load_image(encoded(RGBA), background=background))
    np.testing.assert_array_equal(got, composed(RGBA, background))
    alpha = LEVELS[..., 3:] / 255
    want = LEVELS[..., :3] * alpha + np.array(background) * (1 - alpha)
    assert np.abs(got - want).max() < 1.01
    np.testing.assert_array_equal(got[:3], np.broadcast_to(background, (3, 14, 3)))
    np.testing.assert_array_equal(got[3:5], LEVELS[3:5, :, :3])


def test_white_is_the_default_and_none_drops_alpha():
    np.testing.assert_array_equal(np.asarray(load_image(RGBA)), composed(RGBA, (255, 255, 255)))
    np.testing.assert_array_equal(np.asarray(load_image(RGBA, background=None)), LEVELS[..., :3])
    assert (RGBA.mode, RGBA.getpixel((0, 0))) == ('RGBA', tuple(LEVELS[0, 0].tolist()))


FILES = {
    'RGBA PNG': encoded(RGBA),
    'RGBA WebP': encoded(RGBA, 'WEBP', lossless=True, exact=True),
    'RGBA TIFF': encoded(RGBA, 'TIFF'),
    'RGBA ICO': encoded(RGBA.resize((16, 16)), 'ICO', sizes=[(16, 16)]),
    'LA PNG': encoded(RGBA.convert('LA')),
    'palette, many transparent': encoded(RGBA.quantize(32)),
    'GIF': encoded(RGBA, 'GIF'),
    'animated GIF': encoded(RGBA, 'GIF', save_all=True, append_images=[RGBA.rotate(180)]),
    'animated WebP': encoded(RGBA, 'WEBP', save_all=True, append_images=[RGBA.rotate(180)], lossless=True, exact=True),
    'animated PNG': encoded(RGBA, 'PNG', save_all=True, append_images=[RGBA.rotate(180)]),
}


@pytest.mark.parametrize('name', FILES)
def test_every_kind_of_file(name, tmp_path):
    opened = Image.open(io.BytesIO(FILES[name]))
    want = composed(opened.convert('RGBA'), ORANGE)
    (tmp_path / 'a').write_bytes(FILES[name])
    for source in (FILES[name], tmp_path / 'a', opened):
        np.testing.assert_array_equal(np.asarray(load_image(source, background=ORANGE)), want)
        assert is_spoilt_without_alpha(source)
    assert (want[0, 0] == ORANGE).all()


@pytest.mark.parametrize('mode', ['RGBA', 'LA', 'PA', 'RGBa', 'La'])
def test_every_mode_of_a_picture(mode):
    image = RGBA.convert('RGBA' if mode == 'RGBa' else 'LA' if mode == 'La' else mode).convert(mode)
    plain = image.convert('LA' if mode == 'La' else 'RGBA').convert('RGBA')
    np.testing.assert_array_equal(np.asarray(to_rgb(image, ORANGE)), composed(plain, ORANGE))
    assert to_rgb(image, None).mode == 'RGB'


KEYED = {  # file, and the pixels on orange
    '1 bit': (png(8, 1, 1, 0, [b'\xa0'], (b'tRNS', b'\0\1')), [ORANGE, 0, ORANGE, 0, 0, 0, 0, 0]),
    '2 bits': (png(4, 1, 2, 0, [b'\x1b'], (b'tRNS', b'\0\2')), [0, 85, ORANGE, 255]),
    '4 bits': (png(2, 1, 4, 0, [b'\x2f'], (b'tRNS', b'\0\x0f')), [34, ORANGE]),
    '8 bits': (png(2, 1, 8, 0, [b'\x2f\x05'], (b'tRNS', b'\0\x05')), [47, ORANGE]),
    '16 bits': (png(2, 1, 16, 0, [b'\x02\x05\x02\x06'], (b'tRNS', b'\2\6')), [2, ORANGE]),
    'rgb': (png(2, 1, 8, 2, [b'\1\2\3\1\2\4'], (b'tRNS', b'\0\1\0\2\0\4')), [(1, 2, 3), ORANGE]),
    'rgb, 16 bits': (png(2, 1, 16, 2, [b'\1\1\2\2\3\3\1\1\2\2\4\4'], (b'tRNS', b'\1\1\2\2\4\4')), [(1, 2, 3), ORANGE]),
    'palette': (png(4, 1, 2, 3, [b'\x1b'], (b'PLTE', bytes(range(12))), (b'tRNS', b'\xff\xff\0')),
                [(0, 1, 2), (3, 4, 5), ORANGE, (9, 10, 11)]),
    'palette, one': (png(4, 1, 2, 3, [b'\x1b'], (b'PLTE', bytes(range(12))), (b'tRNS', b'\0')),
                     [ORANGE, (3, 4, 5), (6, 7, 8), (9, 10, 11)]),
    'grey and alpha, 16 bits': (png(2, 1, 16, 4, [b'\5\5\0\0\7\7\xff\xff']), [ORANGE, 7]),
}  # fmt: skip


@pytest.mark.parametrize('name', KEYED)
def test_a_colour_that_stands_for_transparency(name):
    data, pixels = KEYED[name]
    want = [[(level,) * 3 if isinstance(level, int) else level for level in pixels]]
    np.testing.assert_array_equal(np.asarray(load_image(data, background=ORANGE)), want)
    assert image_size(data) == (len(pixels), 1)
    load_image(data, background=None)


@pytest.mark.parametrize('mode', ['RGB', 'L', 'P', '1', 'CMYK', 'I;16'])
def test_opaque_pictures_are_what_they_were(mode):
    image = Image.fromarray(LEVELS[..., :3])
    image = Image.fromarray(LEVELS[..., 0].astype(np.uint16) << 8) if mode == 'I;16' else image.convert(mode)
    for background in (None, 'white', 'black'):
        want = image.convert('RGB') if mode != 'I;16' else Image.fromarray(LEVELS[..., 0]).convert('RGB')
        np.testing.assert_array_equal(np.asarray(load_image(image, background=background)), np.asarray(want))
    assert not is_spoilt_without_alpha(image)


def test_an_alpha_channel_without_transparency_changes_nothing():
    opaque = Image.fromarray(LEVELS[..., :3]).convert('RGBA')
    for background in (None, 'white', 'black'):
        np.testing.assert_array_equal(np.asarray(load_image(encoded(opaque), background=background)), LEVELS[..., :3])
    assert not is_spoilt_without_alpha(encoded(opaque))
    white = Image.new('RGBA', (4, 4), (255, 255, 255, 0))
    assert not is_spoilt_without_alpha(white)


def test_turned_pictures_are_laid_on_it_too():
    exif = Image.Exif()
    exif[0x0112] = 6
    got = load_image(encoded(RGBA, exif=exif), background=ORANGE)
    np.testing.assert_array_equal(np.asarray(got), np.rot90(composed(RGBA, ORANGE), -1))


@pytest.mark.parametrize('key', [b'\0\1', 'x', None, 1.5])
def test_a_transparency_that_fits_nothing_is_an_error(key):
    image = Image.new('RGB', (4, 3))
    image.info['transparency'] = key
    with pytest.raises(DataError, match='transparency'):
        load_image(image)
    assert load_image(image, background=None).getpixel((0, 0)) == (0, 0, 0)


@pytest.mark.parametrize(
    'value', ['whitish', '#12', '#11223344', [1, 2], [1, 2, 256], [1, 2, -1], [1, 2, 3.0], 5, {}, [True] * 3]
)
def test_what_is_no_colour(value):
    with pytest.raises(ConfigError, match='the name of a colour'):
        as_colour(value)
    with pytest.raises(ConfigError, match='background'):
        load_image(RGBA, background=value)


@pytest.mark.parametrize('tiler', [DynamicTiler(1, 4, 28), Resize(28), PadSquare(28), CenterCrop(28)])
def test_image_processors_see_white_behind(tiler):
    assert torch.equal(tiler(RGBA), tiler(load_image(RGBA)))
    assert torch.equal(tiler.from_bytes(encoded(RGBA)), tiler(load_image(RGBA)))


# -- the encoder, and what is kept of it


def records(folder):
    RGBA.resize((60, 60)).save(folder / 'clear.png')
    RGBA.convert('RGB').resize((60, 60)).save(folder / 'opaque.png')
    turns = [{'from': 'human', 'value': '<image>\nWhat?'}, {'from': 'gpt', 'value': 'pink'}]
    lines = [json.dumps({'image': name, 'conversations': turns}) for name in ('clear.png', 'opaque.png')]
    (folder / 'train.jsonl').write_text('\n'.join(lines))
    return folder / 'train.jsonl'


@pytest.mark.parametrize('background', ['white', '#ff8000', [1, 2, 3], None])
def test_training_and_asking_see_the_same(background, tmp_path):
    encoder = make_encoder('Qwen2', background=background)
    file = records(tmp_path)
    want = encoder.image_processor(load_image(tmp_path / 'clear.png', background=background))
    assert torch.equal(ChatDataset(file, encoder=encoder)[0].pixel_values, want)
    for picture in (tmp_path / 'clear.png', Image.open(tmp_path / 'clear.png')):
        assert torch.equal(encoder.prompt('What?', [picture]).pixel_values, want)
    encoder.save_pretrained(tmp_path / 'kept')
    for again in (type(encoder).from_pretrained(tmp_path / 'kept'), type(encoder).from_dict(encoder.to_dict())):
        assert again.background == encoder.background == as_colour(background)


def test_encoders_of_0_1_drop_alpha_as_they_did(tmp_path):
    encoder = make_encoder('Qwen2')
    assert encoder.background == (255, 255, 255)
    state = encoder.to_dict()
    del state['background']
    assert type(encoder).from_dict(state).background is None
    encoder.save_pretrained(tmp_path)
    kept = json.loads((tmp_path / 'encoder.json').read_text())
    del kept['background']
    (tmp_path / 'encoder.json').write_text(json.dumps(kept))
    assert type(encoder).from_pretrained(tmp_path).background is None


@pytest.mark.parametrize('background', ['#ff8000', None, 'no encoder'])
def test_check_data_counts_them(background, tmp_path):
    encoder = None if background == 'no encoder' else make_encoder('Qwen2', background=background)
    found = survey([source_of({'ann_file': str(records(tmp_path))})], encoder, workers=0)
    groups = {group.kind: group for group in found.groups}
    assert [line for _, _, line, _ in groups['transparent'].places] == [1]
    report, plain = text(found), to_json(found)
    if background is None:
        assert (found.problems(), found.problems(['transparent']), found.parts[0].good()) == (1, 0, 1)
        assert "encoder.background='white'" in report
        assert plain['problems'][0]['kind'] == 'transparent'
    else:
        assert (found.problems(), found.parts[0].good()) == (0, 2)
        assert report.index('no problems') < report.index('1 x transparent')
        assert ('#ff8000' if encoder else '#ffffff') in report
        assert (plain['problems'], plain['notes'][0]['count']) == ([], 1)
