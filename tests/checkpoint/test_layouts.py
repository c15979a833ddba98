"""Layouts: every tensor there and back bit for bit, and InternLM2's packing against the original's own numbers."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from transformers import InternVLConfig, LlamaConfig, LlamaForCausalLM

import mmft
from mmft.checkpoint import TensorDirectory, read_layout
from mmft.errors import CheckpointError, ConfigError
from mmft.layouts import LAYOUT_NAMES, LAYOUTS, layout_for
from mmft.models.language.internlm2 import join_wqkv, split_wqkv
from tests.helpers import GOLDEN, INTERNVL_CASES, golden_json, golden_tensors

WQKV = 'internlm2_wqkv'


def convert(steps, tensors):
    out = {}
    for step in steps:
        out |= step(tensors.__getitem__)
    return out


@pytest.mark.parametrize('name', INTERNVL_CASES)
def test_official_and_back_is_bit_identical(name):
    layout, official = read_layout(GOLDEN / name), TensorDirectory(GOLDEN / name)
    ours = convert(layout.to_ours(official), official)
    back = convert(layout.to_theirs(ours), ours)
    assert set(back) == set(official)
    for key, tensor in official.items():
        assert back[key].dtype == tensor.dtype
        assert torch.equal(back[key], tensor), key


@pytest.mark.parametrize('name', INTERNVL_CASES)
@pytest.mark.parametrize('layout_name', LAYOUT_NAMES)
def test_any_layout_and_back_is_bit_identical(name, layout_name):
    layout, official = read_layout(GOLDEN / name), TensorDirectory(GOLDEN / name)
    ours = convert(layout.to_ours(official), official)
    if layout_name == 'hf' and layout.model_config['projector']['version'] == 'v1':
        with pytest.raises(ConfigError, match='pixel shuffle v1'):
            layout_for(layout_name, layout.model_config)
        return
    other = layout_for(layout_name, layout.model_config)
    theirs = convert(other.to_theirs(ours), ours)
    back = convert(other.to_ours(theirs), theirs)
    assert set(back) == set(ours)
    assert all(torch.equal(back[key], ours[key]) for key in ours)


@pytest.mark.parametrize(('heads', 'kv_heads'), [(6, 2), (4, 4), (8, 1)])
def test_wqkv_split_and_join_are_inverse(heads, kv_heads):
    for packed in (torch.randn((heads + 2 * kv_heads) * 8, 16), torch.randn((heads + 2 * kv_heads) * 8)):
        parts = split_wqkv(packed, heads, kv_heads)
        assert [len(part) for part in parts] == [heads * 8, kv_heads * 8, kv_heads * 8]
        assert torch.equal(join_wqkv(*parts, heads, kv_heads)[0], packed)


def test_internlm2_is_llama():
    """Weights, and logits through transformers' Llama, equal the original InternLM2's."""
    config = golden_json(WQKV, 'config.json')
    tensors, outputs = golden_tensors(WQKV, 'model'), golden_tensors(WQKV, 'outputs')
    heads, kv_heads = config['num_attention_heads'], config['num_key_value_heads']
    packed = next(value for key, value in tensors.items() if key.endswith('layers.0.attention.wqkv.weight'))
    for part, name in zip(split_wqkv(packed, heads, kv_heads), 'qkv', strict=True):
        assert torch.equal(part, outputs[f'layer0_{name}_proj_weight'])
    model_config = {'llm': {'type': 'InternLM2', **config}, 'vision': {'type': 'InternViT'}}
    layout = LAYOUTS['InternVLChatModel'](model_config | {'projector': {'type': 'PixelShuffleMLP'}})
    official = {f'language_model.{key}': value for key, value in tensors.items()}
    ours = convert(layout.to_ours(official), official)
    fields = {k: v for k, v in config.items() if k not in ('bias', 'attn_implementation')}
    llama = LlamaForCausalLM(LlamaConfig(**fields))
    llama.load_state_dict({key.removeprefix('llm.lm.'): value for key, value in ours.items()})
    inputs = golden_tensors(WQKV, 'inputs')
    with torch.no_grad():
        logits = llama.eval()(**inputs).logits
    mask = inputs['attention_mask'].bool()
    torch.testing.assert_close(logits[mask], outputs['logits'][mask], atol=1e-5, rtol=1e-5)


def test_unknown_architecture(tmp_path):
    (tmp_path / 'config.json').write_text(json.dumps({'architectures': ['BertModel']}))
    with pytest.raises(CheckpointError, match='BertModel'):
        read_layout(tmp_path)


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'projector_hidden_act': 'relu'}, 'projector_hidden_act'),
        ({'vision_config': {'use_qk_norm': True, 'layer_norm_eps': 1e-3}}, 'use_qk_norm with layer_norm_eps = 0.001'),
    ],
)
def test_hf_settings_that_mmft_has_not(tmp_path, change, words):
    """They would change the numbers in silence."""
    text = {'model_type': 'llama', 'hidden_size': 32}
    config = InternVLConfig(vision_config=change.pop('vision_config', {}), text_config=text, **change)
    config.architectures = ['InternVLForConditionalGeneration']
    config.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=words):
        read_layout(tmp_path)


def test_official_defaults(tmp_path):
    """What ``vision_config`` leaves out is what InternVisionConfig has (InternViT-6B), not what our class has."""
    config = golden_json('internvl2_internlm2', 'config.json')
    for key in ('num_attention_heads', 'qk_normalization', 'norm_type', 'qkv_bias', 'image_size'):
        config['vision_config'].pop(key, None)
    (tmp_path / 'config.json').write_text(json.dumps(config))
    vision = read_layout(tmp_path).model_config['vision']
    assert (vision['num_attention_heads'], vision['norm_type'], vision['image_size']) == (25, 'rms_norm', 224)
    assert (vision['qk_normalization'], vision['qkv_bias']) == (True, False)


def test_unknown_and_missing_tensors():
    layout, tensors = read_layout(GOLDEN / INTERNVL_CASES[0]), TensorDirectory(GOLDEN / INTERNVL_CASES[0])
    with pytest.raises(CheckpointError, match='without a place in the model'):
        layout.to_ours([*tensors, 'vision_tower.stray'])
    hf = layout_for('hf', layout.model_config)
    with pytest.raises(CheckpointError, match=r'missing.*k_proj'):
        hf.to_ours(['vision_tower.encoder.layer.0.attention.q_proj.weight'])


OF_EVERY_FORMAT = (
    'architecture',
    'rules',
    'from_config',
    'from_model',
    'encoder_config',
    'config_json',
)
DEFAULTS = ('matches', 'model_config', 'open', 'ignored', 'zeros', 'chat_templates', 'unties', 'check', 'adjustments',
            'small_files', 'special_tokens', 'picture', 'write_files', 'llm_section', 'readers', 'support',
            'limited_support')  # fmt: skip


@pytest.mark.parametrize('layout', LAYOUTS.values(), ids=LAYOUTS)
def test_a_directory_format_is_one_file(layout):
    """Recognising, names, config.json in and out, small files and limits: its own, or the default of every format.

    A format that differs from another in little takes the rest from that one's file.
    """
    files = {cls.__module__ for cls in layout.__mro__ if cls in LAYOUTS.values()}
    assert not layout.__abstractmethods__
    assert layout.__module__.startswith('mmft.layouts.')
    for name in OF_EVERY_FORMAT + DEFAULTS:
        owner = next(cls for cls in layout.__mro__ if name in vars(cls)).__module__
        allowed = files | ({'mmft.layouts.base', 'mmft.layouts.rules'} if name in DEFAULTS else set())
        assert owner in allowed, f'{name} of {layout.__name__} is in {owner}'


@pytest.mark.parametrize('package', ['files', 'checkpoint', 'export'])
def test_nothing_around_the_layouts_knows_a_format(package):
    words = {layout.__module__ for layout in LAYOUTS.values()} | set(LAYOUTS) | {c.__name__ for c in LAYOUTS.values()}
    for file in sorted((Path(mmft.__file__).parent / package).rglob('*.py')):
        said = set(re.findall(r'[\w.]+', file.read_text(encoding='utf-8')))
        assert not said & words, file
