"""InternLM3 as InternVL3-9B has it, against its formulas written out here. All else that every family has is tested for
it in ``tests/models/test_families.py`` and ``tests/export/test_every_family.py``.

Source: ``modeling_internlm3.py`` of internlm/internlm3-8b-instruct; transformers 5 has its config and no class.
"""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch.nn.functional import linear, silu
from transformers import InternVLConfig
from transformers.models.internlm3 import InternLM3Config

import mmft
from mmft.data.text.templates import build_template
from mmft.errors import ConfigError
from mmft.layouts import layout_of
from mmft.models.language.family import families
from mmft.registry import LANGUAGE_MODELS
from tests.export.tiny import make_base, make_encoder, model_config

SMALL = {
    'vocab_size': 64, 'hidden_size': 24, 'intermediate_size': 40, 'num_hidden_layers': 2, 'num_attention_heads': 4,
    'num_key_value_heads': 2, 'head_dim': 8, 'max_position_embeddings': 16, 'rms_norm_eps': 1e-5,
    'rope_theta': 50000.0, 'rope_scaling': {'rope_type': 'dynamic', 'factor': 6.0}, 'pad_token_id': 0,
}  # fmt: skip


def rms(x, weight):
    return weight * x / (x.square().mean(-1, keepdim=True) + SMALL['rms_norm_eps']).sqrt()


def turned(x, length):
    """(heads,L,d): pairs (i, i + d / 2) turned by position * base^(-2 i / d); the base grows with long inputs."""
    dim, base = SMALL['head_dim'], SMALL['rope_theta']
    factor, trained = SMALL['rope_scaling']['factor'], SMALL['max_position_embeddings']
    if length > trained:
        base *= (factor * length / trained - (factor - 1)) ** (dim / (dim - 2))
    angles = torch.arange(length)[:, None] * base ** (-torch.arange(0, dim, 2) / dim)
    first, second = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def internlm3(weights, ids):
    """InternLM3's forward from its formulas: ids (L,) -> logits (L,V)."""

    def layer(name, x):
        return linear(x, weights[f'{name}.weight'], weights.get(f'{name}.bias'))

    def heads(x, count):
        return x.unflatten(-1, (count, SMALL['head_dim'])).transpose(0, 1)

    length, kv = len(ids), SMALL['num_key_value_heads']
    group = SMALL['num_attention_heads'] // kv
    hidden = weights['model.embed_tokens.weight'][ids]
    for i in range(SMALL['num_hidden_layers']):
        block = f'model.layers.{i}.'
        x = rms(hidden, weights[f'{block}input_layernorm.weight'])
        q = turned(heads(layer(f'{block}self_attn.q_proj', x), group * kv), length)
        k = turned(heads(layer(f'{block}self_attn.k_proj', x), kv), length).repeat_interleave(group, 0)
        v = heads(layer(f'{block}self_attn.v_proj', x), kv).repeat_interleave(group, 0)
        scores = q @ k.transpose(1, 2) / math.sqrt(SMALL['head_dim'])
        scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -math.inf)
        mixed = (scores.softmax(-1) @ v).transpose(0, 1).flatten(1)
        hidden = hidden + layer(f'{block}self_attn.o_proj', mixed)
        x = rms(hidden, weights[f'{block}post_attention_layernorm.weight'])
        wide = silu(layer(f'{block}mlp.gate_proj', x)) * layer(f'{block}mlp.up_proj', x)
        hidden = hidden + layer(f'{block}mlp.down_proj', wide)
    return linear(rms(hidden, weights['model.norm.weight']), weights['lm_head.weight'])


@pytest.mark.parametrize('length', [9, 16, 23])
@pytest.mark.parametrize('bias', [False, True])
def test_logits_are_those_of_its_formulas(bias, length):
    torch.manual_seed(0)
    llm = LANGUAGE_MODELS.build({'type': 'InternLM3', **SMALL, 'bias': bias, 'qkv_bias': bias}).eval()
    for parameter in llm.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    linear_layers = [m for m in llm.layers.modules() if isinstance(m, torch.nn.Linear)]
    assert {layer.bias is not None for layer in linear_layers} == {bias}
    ids = torch.randint(3, 64, (length,))
    with torch.no_grad():
        got = llm.head(llm.hidden(llm.embed(ids[None]), None, None))[0]
        want = internlm3(llm.lm.state_dict(), ids)
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('one', ['qkv_bias', 'bias'])
def test_one_bias_without_the_other(one):
    with pytest.raises(ConfigError, match=r'(?s)InternLM3: .*the same for both'):
        LANGUAGE_MODELS.build({'type': 'InternLM3', **SMALL, one: True})


def test_the_published_config(tmp_path):
    """Of InternVL3-9B's internlm3-8b-instruct."""
    published = {
        'architectures': ['InternLM3ForCausalLM'], 'model_type': 'internlm3', 'attention_dropout': 0.0, 'bias': False,
        'bos_token_id': 1, 'eos_token_id': 2, 'head_dim': 128, 'hidden_act': 'silu', 'hidden_size': 4096,
        'initializer_range': 0.02, 'intermediate_size': 10240, 'max_position_embeddings': 32768,
        'num_attention_heads': 32, 'num_hidden_layers': 48, 'num_key_value_heads': 2, 'pad_token_id': 2,
        'qkv_bias': False, 'rms_norm_eps': 1e-5, 'rope_scaling': {'factor': 6.0, 'rope_type': 'dynamic'},
        'rope_theta': 50000000, 'tie_word_embeddings': False, 'torch_dtype': 'bfloat16', 'use_cache': True,
        'vocab_size': 128512, 'attn_implementation': 'flash_attention_2',
    }  # fmt: skip
    vision = {'hidden_size': 1024, 'num_hidden_layers': 24, 'num_attention_heads': 16, 'intermediate_size': 4096}
    config = {'architectures': ['InternVLChatModel'], 'vision_config': vision, 'llm_config': published}
    layout = layout_of(config, 'it')
    llm = dict(layout.model_config['llm'])
    assert llm.pop('type') == 'InternLM3'
    resolved = LANGUAGE_MODELS.get('InternLM3').hf_config(llm)
    assert (resolved.attention_bias, resolved.mlp_bias, resolved.head_dim) == (False, False, 128)
    assert resolved.rope_parameters == {'rope_type': 'dynamic', 'factor': 6.0, 'rope_theta': 50000000}
    assert layout.encoder_config(tmp_path)['template'] == 'internvl2_5'


def test_official_config_in_its_own_words(tmp_path):
    """Its code reads ``rope_type``, where others' reads ``type``, and two biases of its own names."""
    config = model_config('InternLM3', rope_scaling={'rope_type': 'dynamic', 'factor': 6.0})
    base = make_base(tmp_path / 'base', config, encoder=make_encoder('InternLM3'))
    llm = json.loads((base / 'config.json').read_text())['llm_config']
    assert (llm['architectures'], llm['model_type']) == (['InternLM3ForCausalLM'], 'internlm3')
    assert llm['rope_scaling'] == {'rope_type': 'dynamic', 'factor': 6.0}
    assert (llm['qkv_bias'], llm['bias']) == (False, False)
    assert not {'attention_bias', 'mlp_bias'} & set(llm)
    assert mmft.load(base)[0].llm.lm.config.rope_parameters['factor'] == 6.0


def test_a_text_config_of_internlm3():
    """As transformers 5 may write it into an HF-native directory; published ones call it llama."""
    text = InternLM3Config(**{k: v for k, v in SMALL.items() if k != 'rope_theta'}, rope_theta=50000.0)
    config = InternVLConfig(text_config=text).to_dict() | {'architectures': ['InternVLForConditionalGeneration']}
    assert layout_of(config, 'it').model_config['llm']['type'] == 'InternLM3'


def test_its_own_template():
    question = [{'role': 'user', 'content': 'Hi'}]
    template = build_template(families()['InternLM3'].template)
    assert template.text(question, True) == '<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n'
