"""TinyLLaVA Factory's layout: two towers, connectors, and models that it cannot hold."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import mmft
from mmft.checkpoint import read_layout
from mmft.errors import CheckpointError, ConfigError
from mmft.layouts import TinyLlava
from tests.helpers import GOLDEN, golden_json, golden_tensors

TINY = GOLDEN / 'tinyllava_model'
LLM = {'type': 'Llama', 'hidden_size': 32}


@pytest.fixture
def mof(tmp_path):
    """A directory with both towers, whose config holds the first one's numbers and the second one's name."""
    towers = golden_json('tower_mof', 'config.json')
    config, tensors = golden_json('tinyllava_model', 'config.json'), load_file(TINY / 'model.safetensors')
    tensors = {key: value.float() for key, value in tensors.items() if key.startswith('language_model.')}
    tensors |= {f'vision_tower.{key}': value for key, value in golden_tensors('tower_mof', 'model').items()}
    width = towers['clip']['hidden_size']
    torch.manual_seed(0)
    for name in ('clip', 'dinov2'):
        sizes = {'0.weight': (48, width), '0.bias': (48,), '2.weight': (48, 48), '2.bias': (48,)}
        tensors |= {f'connector._connector.{name}.{key}': torch.randn(size) for key, size in sizes.items()}
    run = tmp_path / 'mof'
    run.mkdir()
    save_file(tensors, run / 'model.safetensors')
    named = {'connector_type': 'mof_mlp', 'vision_model_name_or_path': 'mof:openai/clip-x',
             'vision_model_name_or_path2': 'mof:facebook/dinov2-tiny', 'vision_config': towers['clip']}  # fmt: skip
    (run / 'config.json').write_text(json.dumps({**config, **named}))
    (tmp_path / 'dinov2-tiny').mkdir()
    (tmp_path / 'dinov2-tiny' / 'config.json').write_text(json.dumps(towers['dinov2']))
    return run


def test_two_towers(mof):
    model, _ = mmft.load(mof)
    assert model.vision.hidden_sizes == [32, 32]
    inputs, outputs = golden_tensors('tower_mof', 'inputs'), golden_tensors('tower_mof', 'outputs')
    with torch.no_grad():
        shares = model.vision(inputs['pixel_values']).split(32, dim=-1)
    for share, name in zip(shares, ('clip', 'dinov2'), strict=True):
        torch.testing.assert_close(share, outputs[f'patch/layer-2/{name}'], atol=1e-5, rtol=1e-5)
    stored = load_file(mof / 'model.safetensors')
    assert torch.equal(model.projector.mlps[1][2].weight, stored['connector._connector.dinov2.2.weight'])
    assert model.tokens_per_tile == 32
    processor = read_layout(mof).encoder_config(mof)['image_processor']
    assert processor == {'type': 'CenterCrop', 'tile_size': 28}


def test_the_second_tower_s_numbers_are_elsewhere(mof, tmp_path):
    (tmp_path / 'dinov2-tiny').rename(tmp_path / 'moved')
    with pytest.raises(CheckpointError, match=r"(?s)second tower.*'facebook/dinov2-tiny'.*vision="):
        mmft.load(mof)
    assert mmft.load(mof, vision=tmp_path / 'moved')[0].vision.hidden_size == 64
    config = json.loads((mof / 'config.json').read_text())
    (mof / 'config.json').write_text(json.dumps({**config, 'vision_model_name_or_path2': 'mof:facebook/dinov2-large'}))
    second = read_layout(mof).model_config['vision']['towers'][1]
    assert (second['type'], second['hidden_size'], second['image_size']) == ('DINOv2', 1024, 518)


@pytest.mark.parametrize('kind', ['linear', 'mlp3x_gelu', 'resampler'])
def test_a_config_of_another_connector(kind, tmp_path):
    config = {**golden_json('tinyllava_model', 'config.json'), 'connector_type': kind}
    (tmp_path / 'config.json').write_text(json.dumps(config))
    (tmp_path / 'model.safetensors').write_bytes((TINY / 'model.safetensors').read_bytes())
    with pytest.raises(CheckpointError, match=rf"connector_type '{kind}', but the weights hold 'mlp2x_gelu'"):
        mmft.load(tmp_path)


BERT = {'type': 'QFormer', 'query_norm': False}


@pytest.mark.parametrize(
    ('projector', 'message'),
    [
        ({'type': 'MLP', 'act': 'relu'}, r"MLP\(act='relu'\): its code builds act='gelu'"),
        ({'type': 'MLP', 'hidden_dim': 7}, r'MLP\(hidden_dim=7\)'),
        ({'type': 'Resampler', 'num_heads': 4}, r'Resampler\(num_heads=4\): its code builds num_heads=8'),
        ({'type': 'Resampler', 'head_dim': 32}, r'Resampler\(head_dim=32\)'),
        ({'type': 'QFormer'}, r'QFormer\(query_norm=True\)'),
        ({**BERT, 'hidden_size': 16}, r'QFormer\(hidden_size=16\)'),
        ({**BERT, 'vision_norm': 1e-5}, r'QFormer\(vision_norm=1e-05\)'),
        ({**BERT, 'encoder_dim': 1408, 'proj': False}, r'(?s)encoder_dim=1408.*proj=False'),
        ({'type': 'MoFMLP'}, 'the projector MoFMLP'),
    ],
)
def test_what_its_config_has_no_word_for(projector, message):
    vision = {'type': 'CLIP'}
    with pytest.raises(ConfigError, match=message):
        TinyLlava.from_model({'vision': vision, 'projector': projector, 'llm': LLM})


@pytest.mark.parametrize(
    'projector',
    [{'type': 'MLP', 'depth': 3}, {'type': 'Resampler', 'num_queries': 9, 'depth': 2}, {**BERT, 'dropout': 0.0},
     {'type': 'Linear'}],
)  # fmt: skip
def test_what_it_holds(projector):
    assert TinyLlava.from_model({'vision': {'type': 'CLIP'}, 'projector': projector, 'llm': LLM})
