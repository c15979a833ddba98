"""What transparent pictures are laid on is kept in every export, wherever it is opened again."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

import mmft
from mmft.serve.backends.choose import Choice
from mmft.serve.server import _Server
from mmft.serve.settings import ServeSettings
from tests.export.tiny import make_base, make_encoder, model_config

LEVELS = np.random.default_rng(0).integers(0, 256, (56, 56, 4), dtype=np.uint8)
CLEAR = Image.fromarray(LEVELS)


def made(folder, background, layout='hf'):
    encoder = make_encoder('Qwen2', background=background)
    return make_base(folder / 'base', model_config('Qwen2'), layout, encoder=encoder), encoder


def served(directory):
    server = _Server(ServeSettings(directory), directory, Choice('transformers', ''), {}, None, print)
    server._hosts = lambda: ()
    return server._allowed().background


@pytest.mark.parametrize('layout', ['hf', 'official', 'native'])
@pytest.mark.parametrize(('background', 'kept'), [('white', (255, 255, 255)), ('#ff8000', (255, 128, 0)), (None, None)])
def test_every_layout_keeps_it(layout, background, kept, tmp_path):
    directory, _ = made(tmp_path, background, layout)
    assert mmft.load(directory)[1].background == kept == served(directory)


@pytest.mark.parametrize('background', ['#ff8000', None])
def test_a_directory_that_transformers_saved_again_keeps_it(background, tmp_path):
    directory, encoder = made(tmp_path, background)
    processor = AutoProcessor.from_pretrained(directory)
    (directory / 'encoder.json').unlink()
    for name in ('processor_config.json', 'preprocessor_config.json'):
        (directory / name).unlink()
    processor.save_pretrained(directory)
    assert mmft.load(directory)[1].background == encoder.background == served(directory)


def test_an_export_of_0_1_drops_alpha_and_other_directories_do_not(tmp_path):
    directory, _ = made(tmp_path, 'white')
    kept = json.loads((directory / 'encoder.json').read_text())
    del kept['background']
    (directory / 'encoder.json').write_text(json.dumps(kept))
    assert mmft.load(directory)[1].background is None is served(directory)
    (directory / 'encoder.json').unlink()
    for name in ('processor_config.json', 'preprocessor_config.json'):
        config = json.loads((directory / name).read_text())
        del config.get('image_processor', config)['background']
        (directory / name).write_text(json.dumps(config))
    assert mmft.load(directory)[1].background == (255, 255, 255) == served(directory)


def test_transformers_lays_them_on_white_by_itself(tmp_path):
    """So an export whose background is white needs no gateway for them."""
    directory, encoder = made(tmp_path, 'white')
    image_processor = AutoProcessor.from_pretrained(directory).image_processor
    theirs = image_processor(CLEAR, return_tensors='pt')['pixel_values'][0]
    mean, std = (
        torch.tensor(numbers).view(3, 1, 1) for numbers in (image_processor.image_mean, image_processor.image_std)
    )
    ours = encoder.prompt('What?', [CLEAR]).pixel_values[0].float() / 255
    assert (theirs - (ours - mean) / std).abs().max() < 2.5 / 255 / 0.224
