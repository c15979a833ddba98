"""What the tests of ``mmft data`` share: running a converter, pictures, JSON files."""

from __future__ import annotations

import json
import zlib
from types import SimpleNamespace

import pytest
from PIL import Image

from mmft.cli.main import main
from mmft.data.records.dataset import ChatDataset


@pytest.fixture
def kit(tmp_path, capsys):
    """Everything to build a small copy of a release and to convert it."""

    def picture(path, size=(40, 30), colour=None):
        path.parent.mkdir(parents=True, exist_ok=True)
        colour = colour or tuple(zlib.crc32(path.as_posix()[-20:].encode()) >> shift & 255 for shift in (0, 8, 16))
        Image.new('RGB', size, colour).save(path)
        return path

    def dump(path, value):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), encoding='utf-8')
        return path

    def lines(path):
        return [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()]

    def convert(name, *arguments, status=0):
        """What the tool printed: on standard output where it worked, on standard error where it did not."""
        assert main(['data', name, *map(str, arguments)]) == status
        printed = capsys.readouterr()
        return printed.err if status else printed.out

    def reads(path, root):
        """The dataset that a config would make of it: every record checked and read whole, every picture opened."""
        dataset = ChatDataset(path, image_root=root)
        assert not [dataset.record(i).unread for i in range(len(dataset)) if dataset.record(i).unread]
        return dataset

    return SimpleNamespace(picture=picture, dump=dump, lines=lines, convert=convert, reads=reads)
