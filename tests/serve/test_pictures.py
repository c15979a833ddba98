"""The pictures of requests: which are taken, from where, and what a backend gets of them."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mmft.data.pictures.loading import load_image
from mmft.talk.remote_answerer import RemoteAnswerer
from tests.export.tiny import picture
from tests.serve.running import ANSWER, data_url, encoded, question

PNG = data_url(picture(40, 30))
WHOLE = encoded(picture(80, 60), 'JPEG')
NO_PICTURES = {
    'text': ('data:image/png;base64,' + base64.b64encode(b'hello').decode(), 'not a picture'),
    'nothing': ('data:image/png;base64,', 'an empty file'),
    'broken off': ('data:image/jpeg;base64,' + base64.b64encode(WHOLE[: len(WHOLE) - 200]).decode(), 'breaks off'),
    'no base64': ('data:image/png;base64,@@@', 'broken base64'),
    'another encoding': ('data:image/svg+xml,<svg/>', 'not a base64 data URL'),
    'a bomb': (data_url(Image.new('1', (10_000, 10_000))), '89,478,485 pixels'),
    'a path': ('/etc/hostname', 'reads no files'),
    'a file URL': ('file:///etc/hostname', 'reads no files'),
    'another scheme': ('ftp://example.org/a.png', 'reads no files'),
    'an empty host': ('http:///a.png', 'not an http(s) address'),
    'a wrong port': ('http://example.org:99999/a.png', 'not an http(s) address'),
    'loopback': ('http://127.0.0.1:1/a.png', 'a private address'),
    'loopback by name': ('http://localhost/a.png', 'a private address'),
    'loopback in other words': ('http://2130706433/a.png', 'a private address'),
    'loopback of IPv6': ('http://[::1]/a.png', 'a private address'),
    'a private network': ('http://192.168.1.1/a.png', 'a private address'),
    "the cloud's own": ('http://169.254.169.254/latest/meta-data', 'a private address'),
    'inside IPv6': ('https://[::ffff:10.0.0.1]/a.png', 'a private address'),
}


@pytest.mark.filterwarnings('ignore:.*decompression bomb')
@pytest.mark.parametrize('name', NO_PICTURES)
def test_what_is_no_picture_is_refused(shared, name):
    url, words = NO_PICTURES[name]
    before = len(shared.backend.asked)
    status, error = shared.error(question('What is it?', PNG, url))
    assert (status, error['code']) == (400, 'invalid_image')
    assert words in error['message']
    assert error['message'].startswith('Picture 2 of 2: ')
    assert len(shared.backend.asked) == before
    assert shared.ask(question('What is it?', PNG)).status_code == 200


def test_pictures_arrive_as_training_reads_them(shared):
    tall = Image.Exif()
    tall[0x0112] = 6
    turned = shared.sent(data_url(picture(80, 60), 'PNG', exif=tall))
    assert (turned.size, turned.mode, turned.getexif().get(0x0112)) == ((60, 80), 'RGB', None)
    assert shared.sent(data_url(picture().convert('RGBA'))).mode == 'RGB'
    assert shared.sent(data_url(picture().convert('CMYK'), 'JPEG')).format == 'PNG'
    assert shared.sent(data_url(picture().convert('P'), 'GIF')).mode == 'RGB'
    plain = data_url(picture(), 'JPEG')
    shared.sent(plain)
    assert shared.asked_picture == plain  # not written again
    wrapped = plain[:30] + '\n' + plain[30:].replace('JPEG', 'jpeg')
    assert shared.sent(wrapped.replace('data:image/jpeg', 'DATA:application/octet-stream')).format == 'JPEG'


def test_a_png_with_long_metadata_arrives(shared):
    info = PngInfo()
    info.add_itxt('XML:com.adobe.xmp', 'x' * (3 << 20), zip=True)
    sent = shared.sent(data_url(picture(40, 30), pnginfo=info))
    assert (sent.size, sent.text) == ((40, 30), {})


@pytest.mark.parametrize('background', [(255, 255, 255), (255, 128, 0), None])
def test_transparent_pictures_arrive_as_the_encoder_lays_them(make, background, tmp_path):
    clear = Image.new('RGBA', (40, 30), (7, 8, 9, 0))
    clear.save(tmp_path / 'clear.png')
    setup = make(background=background)
    assert setup.sent(data_url(clear)).getpixel((0, 0)) == (background or (7, 8, 9))
    # A client of ours asks what the background is, and lays them on it itself.
    remote = RemoteAnswerer(setup.url)
    assert remote.answer([{'role': 'user', 'content': 'What?'}], [tmp_path / 'clear.png']) == ANSWER
    sent = Image.open(io.BytesIO(base64.b64decode(setup.asked_picture.partition(',')[2])))
    assert sent.getpixel((0, 0)) == (background or (7, 8, 9))


def test_files_of_the_allowed_folder_only(make, tmp_path):
    folder = tmp_path / 'pictures'
    (folder / 'sub').mkdir(parents=True)
    picture(40, 30).save(folder / 'sub' / 'a b.png')
    picture(40, 30).save(tmp_path / 'secret.png')
    (folder / 'link.png').symlink_to(tmp_path / 'secret.png')
    setup = make(image_root=str(folder))
    for url in ('sub/a b.png', f'{folder}/sub/a b.png', f'file://{folder}/sub/a%20b.png'):
        assert setup.sent(url).size == (40, 30)
    for url in (
        '../secret.png',
        str(tmp_path / 'secret.png'),
        'link.png',
        '/etc/passwd',
        f'file://{folder}/../secret.png',
    ):
        status, error = setup.error(question('?', url))
        assert (status, 'outside the folder' in error['message']) == (400, True), url
    for url in ('sub/none.png', 'sub', 'sub/\x00.png', 'a' * 5000):
        assert setup.error(question('?', url))[0] == 400


@pytest.mark.parametrize('kind', ['JPEG', 'MPO'])
def test_a_turned_photo_stays_small(shared, kind):
    """As PNG it would be ten times as large; what JPEG loses the second time is less than anybody sees."""
    tall = Image.Exif()
    tall[0x0112] = 6
    noise = np.random.default_rng(0).normal(0, 12, (480, 640, 3))
    smooth = np.linspace(40, 200, 640)[None, :, None] + noise
    photo = Image.fromarray(smooth.clip(0, 255).astype(np.uint8))
    file = encoded(photo, kind, exif=tall, quality=85)
    sent = shared.sent(f'data:image/jpeg;base64,{base64.b64encode(file).decode()}')
    assert (sent.size, sent.format, sent.getexif().get(0x0112)) == ((480, 640), 'JPEG', None)
    assert len(base64.b64decode(shared.asked_picture.partition(',')[2])) < 3 * len(file)
    error = np.asarray(sent).astype(float) - np.asarray(load_image(file))
    assert np.sqrt((error**2).mean()) < 2


@pytest.mark.parametrize('kind', ['TIFF', 'ICNS', 'PPM', 'JPEG2000'])
def test_formats_that_nobody_sends_are_not_decoded(shared, kind):
    status, error = shared.error(question('?', data_url(picture(64, 64), kind)))
    assert (status, error['code']) == (400, 'invalid_image')
    assert 'JPEG, PNG, WEBP, GIF, BMP' in error['message']
