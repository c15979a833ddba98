"""A config that differs from its base only in what no tensor shows."""

from __future__ import annotations

import pytest

from mmft.checkpoint.silent_settings import check_same
from mmft.errors import ConfigError

LLM = dict(
    type='Llama', vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
)
MODEL = {'vision': {'type': 'CLIP'}, 'projector': {'type': 'MLP'}, 'llm': LLM}


def differ(part: str, own: dict, theirs: dict) -> None:
    check_same({**MODEL, part: {**MODEL[part], **own}}, {**MODEL, part: {**MODEL[part], **theirs}}, 'base')


@pytest.mark.parametrize(
    ('part', 'own', 'theirs'),
    [
        ('llm', {'rms_norm_eps': 1e-6}, {'rms_norm_eps': 1e-5}),
        ('vision', {}, {'hidden_act': 'gelu'}),
        ('vision', {'select_feature': 'cls_patch'}, {}),
        ('vision', {'type': 'SigLIP', 'drop_first': True}, {'type': 'SigLIP'}),
        ('projector', {'act': 'silu'}, {}),
        ('projector', {'type': 'Linear'}, {}),
        ('llm', {'type': 'Qwen2'}, {}),
        ('vision', {'type': 'MoFTower', 'towers': [{'type': 'CLIP'}, {'type': 'DINOv2', 'select_layer': -2}]},
         {'type': 'MoFTower', 'towers': [{'type': 'CLIP'}, {'type': 'DINOv2'}]}),
    ],
)  # fmt: skip
def test_difference(part: str, own: dict, theirs: dict) -> None:
    with pytest.raises(ConfigError, match=rf'model\.{part}.*, but base '):
        differ(part, own, theirs)


def test_merge() -> None:
    merge = {'merge': {'type': 'AnyResMerge'}}
    with pytest.raises(ConfigError, match=r'model\.merge = None, but base says'):
        check_same(MODEL, {**MODEL, **merge}, 'base')
    check_same({**MODEL, **merge}, {**MODEL, 'merge': {'type': 'AnyResMerge', 'unpad': True, 'newline': True}}, 'base')
    with pytest.raises(ConfigError, match='shrink_to'):
        check_same({**MODEL, **merge}, {**MODEL, 'merge': {'type': 'AnyResMerge', 'shrink_to': 9}}, 'base')


def test_the_longest_input_matters_where_rope_is_scaled_by_it() -> None:
    shorter, longer = {'max_position_embeddings': 128}, {'max_position_embeddings': 256}
    differ('llm', shorter, longer)
    linear = {'rope_scaling': {'type': 'linear', 'factor': 2.0}}
    differ('llm', {**shorter, **linear}, {**longer, **linear})
    dynamic = {'rope_scaling': {'type': 'dynamic', 'factor': 2.0}}
    with pytest.raises(ConfigError, match='max_position_embeddings = 128, but base says 256'):
        differ('llm', {**shorter, **dynamic}, {**longer, **dynamic})


def test_names_of_one_model() -> None:
    """InternLM2 in a config, and Llama, which it becomes in an HF-native directory."""
    differ('llm', {'type': 'InternLM2'}, {'type': 'Llama'})
    with pytest.raises(ConfigError, match=r"model\.llm\.type = 'InternLM2', but base holds 'Qwen2'"):
        differ('llm', {'type': 'InternLM2'}, {'type': 'Qwen2'})
