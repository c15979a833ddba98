"""The real InternVL2 sizes, built on the meta device from the configs, counted to the last parameter.

The expected numbers are worked out here from the papers' and model cards' dimensions, matrix by matrix; the models are
not asked. The totals are those that OpenGVLab publishes (938M, 2.21B, 4.15B, 8.08B, 25.5B).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from mmengine.config import Config

from mmft.checkpoint.load import build_meta

MODELS = Path(__file__).parents[2] / 'configs' / '_base_' / 'models'
SIZES = ('1b', '2b', '4b', '8b', '26b')


def linear(rows: int, columns: int, bias: bool) -> int:
    return rows * columns + (rows if bias else 0)


def intern_vit(h: int, f: int, depth: int, qkv_bias: bool, qk_norm: bool, norm: int) -> int:
    """``norm``: parameters per channel of a block's norm, 2 for LayerNorm (weight, bias), 1 for RMSNorm."""
    patch, grid = 14, 448 // 14
    embeddings = h + linear(h, 3 * patch * patch, bias=True) + (grid * grid + 1) * h  # class token, patches, positions
    attention = linear(3 * h, h, qkv_bias) + linear(h, h, bias=True) + (2 * h if qk_norm else 0)
    mlp = linear(f, h, bias=True) + linear(h, f, bias=True)
    scales = 2 * h
    return embeddings + depth * (attention + mlp + scales + 2 * norm * h)


def mlp1(vision: int, llm: int) -> int:
    wide = 4 * vision  # pixel shuffle by 2 x 2
    return 2 * wide + linear(llm, wide, bias=True) + linear(llm, llm, bias=True)


def decoder(vocab: int, h: int, f: int, depth: int, heads: int, kv_heads: int, qkv_bias: bool = False) -> int:
    """Llama, InternLM2, Qwen2 and Phi-3 alike: packing q, k, v or gate, up into one matrix changes no count."""
    kv = h // heads * kv_heads
    attention = linear(h + 2 * kv, h, qkv_bias) + linear(h, h, bias=False)
    mlp = 3 * h * f
    return 2 * vocab * h + depth * (attention + mlp + 2 * h) + h  # embeddings and head, untied; last norm


VIT_300M = intern_vit(1024, 4096, 24, qkv_bias=True, qk_norm=False, norm=2)
VIT_6B = intern_vit(3200, 12800, 45, qkv_bias=False, qk_norm=True, norm=1)

EXPECTED = {
    '1b': (VIT_300M, mlp1(1024, 896), decoder(151655, 896, 4864, 24, 14, 2, qkv_bias=True)),
    '2b': (VIT_300M, mlp1(1024, 2048), decoder(92553, 2048, 8192, 24, 16, 8)),
    '4b': (VIT_300M, mlp1(1024, 3072), decoder(32020, 3072, 8192, 32, 32, 32)),
    '8b': (VIT_300M, mlp1(1024, 4096), decoder(92553, 4096, 14336, 32, 32, 8)),
    '26b': (VIT_6B, mlp1(3200, 6144), decoder(92553, 6144, 16384, 48, 48, 8)),
}
PUBLISHED = {'1b': 938e6, '2b': 2.21e9, '4b': 4.15e9, '8b': 8.08e9, '26b': 25.5e9}


@cache
def counts(size: str) -> tuple[int, int, int]:
    config = Config.fromfile(MODELS / f'internvl2_{size}.py').model.to_dict()
    model = build_meta(config)
    assert all(p.is_meta for p in model.parameters())
    return tuple(sum(p.numel() for p in part.parameters()) for part in model.parts.values())


@pytest.mark.parametrize('size', SIZES)
def test_every_part_has_exactly_its_parameters(size):
    assert counts(size) == EXPECTED[size]


@pytest.mark.parametrize('size', SIZES)
def test_the_total_is_the_published_one(size):
    assert sum(counts(size)) == pytest.approx(PUBLISHED[size], rel=0.002)


def test_the_arithmetic_gives_the_known_counts():
    assert VIT_300M == 304_012_288
    assert VIT_6B == 5_536_496_000
    # internlm2-chat-1_8b by itself: InternVL2 adds 9 tokens to its 92,544.
    assert decoder(92544, 2048, 8192, 24, 16, 8) == 1_889_110_016
    # Qwen2-0.5B by itself ties its embeddings: one matrix fewer, 494M as its card says.
    assert decoder(151936, 896, 4864, 24, 14, 2, qkv_bias=True) - 151936 * 896 == 494_032_768


@pytest.mark.parametrize('size', SIZES)
def test_a_tile_is_256_tokens(size):
    config = Config.fromfile(MODELS / f'internvl2_{size}.py').model.to_dict()
    assert build_meta({**config, 'llm': {**config['llm'], 'num_hidden_layers': 1}}).tokens_per_tile == 256


def test_real_sizes_keep_rope_and_heads():
    """What shapes do not show: rope base and scaling, head counts, norm eps."""
    two, four = (Config.fromfile(MODELS / f'internvl2_{size}.py').model.to_dict() for size in ('2b', '4b'))
    lm = build_meta({**two, 'llm': {**two['llm'], 'num_hidden_layers': 1}}).llm.lm.config
    assert (lm.num_attention_heads, lm.num_key_value_heads, lm.rms_norm_eps) == (16, 8, 1e-5)
    assert (lm.rope_parameters['rope_type'], lm.rope_parameters['rope_theta']) == ('dynamic', 1e6)
    phi = build_meta({**four, 'llm': {**four['llm'], 'num_hidden_layers': 1}}).llm.lm.config
    assert phi.rope_parameters['rope_type'] == 'longrope'
    for factors in ('short_factor', 'long_factor'):
        values = phi.rope_parameters[factors]
        assert len(values) == 3072 // 32 // 2
        assert values == sorted(values)
    assert phi.original_max_position_embeddings == 4096
