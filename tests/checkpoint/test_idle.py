"""Blocks that never run: what a directory may leave out."""

from __future__ import annotations

import json
import logging
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import mmft
from mmft.checkpoint import read_layout
from mmft.errors import CheckpointError
from mmft.export import convert
from tests.helpers import GOLDEN, golden_json

TINY = 'tinyllava_model'
LAYERS = 'vision_tower._vision_tower.vision_model.encoder.layers.'


@pytest.fixture
def cut(tmp_path):
    """A function that writes the model without some tensors."""

    def write(*lost: str, **changes):
        config = {**golden_json(TINY, 'config.json'), **changes}
        (tmp_path / 'config.json').write_text(json.dumps(config))
        tensors = load_file(GOLDEN / TINY / 'model.safetensors')
        save_file({k: v for k, v in tensors.items() if not k.startswith(lost)}, tmp_path / 'model.safetensors')
        return tmp_path

    return write


def test_blocks_that_never_run_may_be_absent(cut, caplog):
    """As in TinyLLaVABench's checkpoints, whose SigLIP has one block less than the tower's name says."""
    path, pixels = cut(f'{LAYERS}2.'), torch.randn(1, 3, 28, 28)
    with caplog.at_level(logging.INFO, 'mmft'):
        model, _ = mmft.load(path, dtype='float32')
    assert 'never run, so zero: 16 tensors, such as vision.tower.encoder.layers.2' in caplog.text
    whole, _ = mmft.load(GOLDEN / TINY, dtype='float32')
    with torch.no_grad():
        assert torch.equal(model.vision(pixels), whole.vision(pixels))
    assert not model.vision.layers[2].mlp.fc1.weight.any()
    for layout in ('official', 'native'):
        made = convert({'pretrained': str(path)}, None, path / layout, layout, check='full')
        assert made.measured['difference'] == 0


def test_blocks_that_run_and_halves_of_blocks_may_not(cut):
    for lost, changes in (
        (f'{LAYERS}1.', {}),
        (f'{LAYERS}2.mlp.', {}),
        (f'{LAYERS}2.', {'vision_feature_layer': -1}),
    ):
        with pytest.raises(CheckpointError, match=r'layers\.[12]\.mlp\.fc1\.weight: in the model, but not in the'):
            mmft.load(cut(lost, **changes))


def test_a_model_with_more_blocks_than_the_directory(tmp_path):
    """Its ``select_layer`` would be another one: nothing is left out in silence."""
    shutil.copytree(GOLDEN / TINY, tmp_path / 'model')
    config = read_layout(tmp_path / 'model').model_config
    more = {**config, 'vision': {**config['vision'], 'num_hidden_layers': 4}}
    with pytest.raises(CheckpointError, match=r'layers\.3\.'):
        mmft.load(tmp_path / 'model', model=more)
