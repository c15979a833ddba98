"""Paths of pictures as other programs write them: read where they mean a file here; else the error says what it is."""

from __future__ import annotations

import base64
import json

import pytest
from PIL import Image

from mmft.data import ChatDataset
from mmft.data.check import source_of, survey
from mmft.data.check.report import text
from mmft.data.pictures.loading import image_size, load_image
from mmft.data.pictures.paths import inside
from mmft.errors import DataError
from tests.export.tiny import make_encoder


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / 'pictures'
    (folder / 'sub dir').mkdir(parents=True)
    Image.effect_noise((80, 60), 40).save(folder / 'sub dir' / 'a b.png')
    Image.new('RGB', (8, 6)).save(folder / 'odd\\name.png')
    Image.new('RGB', (8, 6)).save(tmp_path / 'outside.png')
    return folder.resolve()


@pytest.mark.parametrize(
    'path',
    [
        'sub dir/a b.png',
        'sub dir\\a b.png',
        '.\\sub dir\\a b.png',
        'sub dir/./a b.png',
        '{root}/sub dir/a b.png',
        'file://{root}/sub dir/a b.png',
        'file://{root}/sub%20dir/a%20b.png',
        'file://localhost{root}/sub%20dir/a%20b.png',
        'FILE:{root}/sub%20dir/a%20b.png',
    ],
)
def test_what_means_a_file_of_the_root(root, path):
    assert inside(root, path.format(root=root)) == root / 'sub dir' / 'a b.png'


def test_a_name_with_a_backslash_is_taken_as_it_is_where_there_is_one(root):
    assert inside(root, 'odd\\name.png') == root / 'odd\\name.png'


BASE64 = base64.b64encode(bytes(range(256)) * 40).decode()
WRONG = {
    'raw base64': ('/9j/' + BASE64, 'a picture as base64 text instead of its path', 'b64decode'),
    'a short one': ('iVBORw0KGgoAAAANSUhEUgAAAAgAAAAGCAIAAABxZ0isAAAAC0lEQVQ', 'a picture as base64', 'b64decode'),
    'wrapped base64': ('\n'.join(BASE64[i : i + 76] for i in range(0, 5000, 76)), 'a picture as base64', 'b64decode'),
    'a data URL': ('data:image/png;base64,' + BASE64, 'a picture as base64', 'b64decode'),
    'http': ('HTTP://example.org/a.png?' + 'x' * 5000, 'is a URL', 'download'),
    's3': ('s3://bucket/a.png', 'is a URL', 'download'),
    'another machine': ('file://server/a.png', "of the machine 'server'", 'correct'),
    'a file outside': ('file://{root}/../outside.png', 'outside the image root', 'image_root'),
    'a file far outside': ('file:///etc/passwd', 'outside the image root', 'image_root'),
    'an escaped one': ('file://{root}/%2e%2e/outside.png', 'outside the image root', 'image_root'),
    'outside with backslashes': ('..\\outside.png', 'outside the image root', 'image_root'),
    'backslashes': ('images\\none.png', 'has backslashes, as paths on Windows', 'image_root'),
    'a drive': ('C:\\data\\a.png', 'a drive of Windows', 'relative'),
    'a drive as a URL': ('file:///C:/data/a.png', 'a drive of Windows', 'relative'),
    'a share': ('\\\\server\\data\\a.png', 'has backslashes', 'image_root'),
    'NUL': ('a\0b.png', 'not a path', 'image root'),
}


@pytest.mark.parametrize('name', WRONG)
def test_what_is_wrong_with_a_path(root, name):
    path, what, fix = WRONG[name]
    with pytest.raises(DataError, match=what) as error:
        inside(root, path.format(root=root))
    assert fix in str(error.value)
    assert len(str(error.value)) < 600 + 3 * len(str(root))


ROWS = {
    'bytes': ({'bytes': BASE64, 'path': None}, 'stands in the record itself'),
    'bytes as numbers': ({'bytes': [137, 80, 78, 71] * 999}, 'stands in the record itself'),
    'nothing': ({'bytes': None, 'path': None}, 'given as None'),
    'a very long name': ('a' * 5000 + '.png', 'too long'),
    'no such file': ('none.png', 'no such picture'),
    'a folder': ('sub dir', 'a directory'),
}


def record(image):
    turns = [{'from': 'human', 'value': '<image>\nWhat?'}, {'from': 'gpt', 'value': 'pink'}]
    return json.dumps({'image': image, 'conversations': turns}) + '\n'


@pytest.mark.parametrize('name', ROWS)
def test_rows(root, name):
    image, what = ROWS[name]
    (root / 'a.jsonl').write_text(record(image))
    with pytest.raises(DataError, match=what) as error:
        ChatDataset(root / 'a.jsonl')
    assert len(str(error.value)) < 1200
    assert error.value.line == 1


def test_a_row_of_datasets_with_a_path(root):
    (root / 'a.jsonl').write_text(record({'bytes': None, 'path': 'sub dir/a b.png'}))
    assert ChatDataset(root / 'a.jsonl').record(0).images == [str(root / 'sub dir' / 'a b.png')]


def test_check_data_gets_to_the_end_of_everything(root):
    """Half a surrogate in a path killed it when the report was printed."""
    wrong = [path.format(root=root) for path, _, _ in WRONG.values()] + [image for image, _ in ROWS.values()]
    lines = [record(image) for image in [*wrong, 'a\ud800.png', 'b\x1b[2J.png', '\udcff.png', 'sub dir\\a b.png']]
    (root / 'a.jsonl').write_text(''.join(lines))
    found = survey([source_of({'ann_file': str(root / 'a.jsonl')})], make_encoder('Qwen2'), workers=0)
    assert (len(found.parts[0]), found.parts[0].good()) == (len(lines), 1)
    report = text(found, places=99)
    report.encode()
    assert '\x1b' not in report
    assert max(map(len, report.splitlines())) < 900


def test_pictures_that_go_while_they_are_read(root, monkeypatch):
    """ENOENT between the look at the header and the decoding is an error of ours too."""
    encoder, picture = make_encoder('Qwen2'), root / 'sub dir' / 'a b.png'
    size = image_size(picture)
    picture.unlink()
    monkeypatch.setattr('mmft.data.encoder.image_size', lambda *_: size)
    with pytest.raises(DataError, match='no such picture'):
        encoder.prompt('What?', [picture])


@pytest.mark.parametrize('path', ['a\0b', 'a\ud800b', '\udcff', 'x' * 5000, ''])
def test_opening_what_no_file_can_be_called(path):
    for load in (load_image, image_size):
        with pytest.raises(DataError) as error:
            load(path)
        assert len(str(error.value)) < 700
