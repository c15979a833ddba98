"""Real sizes, built on the meta device and counted to the last parameter: InternVL's from the configs, and every tower
and language model of the LLaVA family.

The expected numbers are worked out here from the papers' and model cards' dimensions, matrix by matrix; the models are
not asked. InternVL's totals are those that OpenGVLab publishes (InternVL2's as 938M, 2.21B, ...; InternVL3.5's in table
1 of arXiv:2508.18265); the others are known to the last digit.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmft.checkpoint.build import build_meta
from mmft.registry import LANGUAGE_MODELS, VISION_TOWERS

MODELS = Path(__file__).parents[2] / 'configs' / '_base_' / 'models'


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


def tied(count: int, vocab: int, h: int) -> int:
    """Head and embeddings are one matrix."""
    return count - vocab * h


def gemma(vocab: int, h: int, f: int, depth: int, heads: int, kv_heads: int, head_dim: int) -> int:
    attention = 2 * h * heads * head_dim + 2 * h * kv_heads * head_dim
    return vocab * h + depth * (attention + 3 * h * f + 2 * h) + h


def qwen3(vocab: int, h: int, f: int, depth: int, heads: int, kv_heads: int, head_dim: int) -> int:
    """Gemma's matrices, and a norm of each head's queries and keys."""
    return gemma(vocab, h, f, depth, heads, kv_heads, head_dim) + depth * 2 * head_dim


def qwen2_5(h: int, f: int, depth: int, heads: int, kv_heads: int) -> int:
    """With InternVL's tokens and an output head of its own."""
    return decoder(151674, h, f, depth, heads, kv_heads, qkv_bias=True)


def qwen3_untied(h: int, f: int, depth: int, heads: int) -> int:
    """Qwen3's count has one matrix for embeddings and head; InternVL3.5 has two."""
    return qwen3(151936, h, f, depth, heads, 8, 128) + 151936 * h


VIT_300M = intern_vit(1024, 4096, 24, qkv_bias=True, qk_norm=False, norm=2)
VIT_6B = intern_vit(3200, 12800, 45, qkv_bias=False, qk_norm=True, norm=1)

# Width of tower and language model, and the language model's count.
INTERNLM2 = {
    '2b': (1024, 2048, decoder(92553, 2048, 8192, 24, 16, 8)),
    '8b': (1024, 4096, decoder(92553, 4096, 14336, 32, 32, 8)),
    '26b': (3200, 6144, decoder(92553, 6144, 16384, 48, 48, 8)),
}
PARTS = {
    'internvl2_1b': (1024, 896, decoder(151655, 896, 4864, 24, 14, 2, qkv_bias=True)),
    'internvl2_4b': (1024, 3072, decoder(32020, 3072, 8192, 32, 32, 32)),
    'internvl2_40b': (3200, 7168, decoder(64009, 7168, 20480, 60, 56, 8)),
    'internvl2_llama3_76b': (3200, 8192, decoder(128265, 8192, 28672, 80, 64, 8)),
    **{f'{family}_{size}': INTERNLM2[size] for family in ('internvl2', 'internvl2_5') for size in INTERNLM2},
    'internvl2_5_1b': (1024, 896, qwen2_5(896, 4864, 24, 14, 2)),
    'internvl2_5_4b': (1024, 2048, qwen2_5(2048, 11008, 36, 16, 2)),
    'internvl2_5_38b': (3200, 5120, qwen2_5(5120, 27648, 64, 40, 8)),
    'internvl3_1b': (1024, 896, qwen2_5(896, 4864, 24, 14, 2)),
    'internvl3_2b': (1024, 1536, qwen2_5(1536, 8960, 28, 12, 2)),
    'internvl3_8b': (1024, 3584, qwen2_5(3584, 18944, 28, 28, 4)),
    'internvl3_9b': (1024, 4096, decoder(128512, 4096, 10240, 48, 32, 2)),
    'internvl3_14b': (1024, 5120, qwen2_5(5120, 13824, 48, 40, 8)),
    'internvl3_38b': (3200, 5120, qwen2_5(5120, 27648, 64, 40, 8)),
    'internvl3_5_1b': (1024, 1024, qwen3_untied(1024, 3072, 28, 16)),
    'internvl3_5_2b': (1024, 2048, qwen3_untied(2048, 6144, 28, 16)),
    'internvl3_5_4b': (1024, 2560, qwen3_untied(2560, 9728, 36, 32)),
    'internvl3_5_8b': (1024, 4096, qwen3_untied(4096, 12288, 36, 32)),
    'internvl3_5_14b': (1024, 5120, qwen3_untied(5120, 17408, 40, 40)),
    'internvl3_5_38b': (3200, 5120, qwen3_untied(5120, 25600, 64, 64)),
}
EXPECTED = {
    name: ({1024: VIT_300M, 3200: VIT_6B}[vision], mlp1(vision, llm), count)
    for name, (vision, llm, count) in PARTS.items()
}
PUBLISHED = {
    'internvl2_1b': 938e6, 'internvl2_2b': 2.21e9, 'internvl2_4b': 4.15e9, 'internvl2_8b': 8.08e9,
    'internvl2_26b': 25.5e9, 'internvl2_40b': 40.1e9, 'internvl2_llama3_76b': 76.3e9,
    'internvl2_5_1b': 938e6, 'internvl2_5_2b': 2.21e9, 'internvl2_5_4b': 3.71e9, 'internvl2_5_8b': 8.08e9,
    'internvl2_5_26b': 25.5e9, 'internvl2_5_38b': 38.4e9,
    'internvl3_1b': 938e6, 'internvl3_2b': 2.09e9, 'internvl3_8b': 7.94e9, 'internvl3_9b': 9.14e9,
    'internvl3_14b': 15.1e9, 'internvl3_38b': 38.4e9,
    'internvl3_5_1b': 1.06e9, 'internvl3_5_2b': 2.35e9, 'internvl3_5_4b': 4.73e9, 'internvl3_5_8b': 8.53e9,
    'internvl3_5_14b': 15.1e9, 'internvl3_5_38b': 38.4e9,
}  # fmt: skip


@cache
def counts(name: str) -> tuple[int, int, int]:
    config = Config.fromfile(MODELS / f'{name}.py').model.to_dict()
    model = build_meta(config)
    assert all(p.is_meta for p in model.parameters())
    return tuple(sum(p.numel() for p in part.parameters()) for part in model.parts.values())


def test_every_internvl_base_has_a_row():
    bases = {path.stem for path in MODELS.glob('internvl*.py')} - {'internvl2', 'internvl2_tiny'}
    assert bases == set(PARTS) == set(PUBLISHED)


@pytest.mark.parametrize('name', PARTS)
def test_every_part_has_exactly_its_parameters(name):
    assert counts(name) == EXPECTED[name]


@pytest.mark.parametrize('name', PARTS)
def test_the_total_is_the_published_one(name):
    assert sum(counts(name)) == pytest.approx(PUBLISHED[name], rel=0.002)


def test_the_arithmetic_gives_the_known_counts():
    assert VIT_300M == 304_012_288
    assert VIT_6B == 5_536_496_000
    # internlm2-chat-1_8b by itself: InternVL2 adds 9 tokens to its 92,544.
    assert decoder(92544, 2048, 8192, 24, 16, 8) == 1_889_110_016
    # Qwen2-0.5B by itself ties its embeddings: one matrix fewer, 494M as its card says.
    assert decoder(151936, 896, 4864, 24, 14, 2, qkv_bias=True) - 151936 * 896 == 494_032_768


@pytest.mark.parametrize('name', PARTS)
def test_a_tile_is_256_tokens(name):
    config = Config.fromfile(MODELS / f'{name}.py').model.to_dict()
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


def vit(h: int, f: int, depth: int, patch: int, positions: int, patch_bias: bool = True, extra: int = 0) -> int:
    """A plain vision transformer with LayerNorms and biases; ``extra``: what else stands outside the blocks."""
    embeddings = linear(h, 3 * patch * patch, patch_bias) + positions * h
    block = 4 * linear(h, h, True) + linear(f, h, True) + linear(h, f, True) + 4 * h
    return embeddings + depth * block + 2 * h + extra  # the norm behind the last block


CLIP_L = vit(1024, 4096, 24, 14, 24 * 24 + 1, patch_bias=False, extra=1024 + 2 * 1024)  # class token, norm in front
SIGLIP = vit(1152, 4304, 27, 14, 27 * 27)
DINO_L = vit(1024, 4096, 24, 14, 37 * 37 + 1, extra=2 * 1024 + 24 * 2 * 1024)  # class and mask token, layer scales

SIGLIP_POOLING = 1152 + 4 * linear(1152, 1152, True) + 2 * 1152 + linear(4304, 1152, True) + linear(1152, 4304, True)

TOWERS = {
    'CLIP-L/336': ({'type': 'CLIP'}, CLIP_L, 303_507_456),
    # 428,225,600 is the published tower with the pooling head, which is not built.
    'SigLIP-so400m/384': ({'type': 'SigLIP'}, SIGLIP, 428_225_600 - SIGLIP_POOLING),
    'DINOv2-L': ({'type': 'DINOv2'}, DINO_L, 304_368_640),
    # timm's ViT-B/16: 86,567,656 with its 1000-way classifier.
    'ViT-B/16': (
        {'type': 'TimmViT', 'model_name': 'vit_base_patch16_224'},
        vit(768, 3072, 12, 16, 14 * 14 + 1, extra=768),
        86_567_656 - linear(1000, 768, True),
    ),
}


def stablelm(vocab: int, h: int, f: int, depth: int) -> int:
    """Biases on queries, keys and values; LayerNorms, so one more bias each."""
    return decoder(vocab, h, f, depth, 1, 1, qkv_bias=True) + (2 * depth + 1) * h


def phi(vocab: int, h: int, f: int, depth: int) -> int:
    """Biases everywhere, one LayerNorm a block for attention and MLP."""
    block = 4 * linear(h, h, True) + linear(f, h, True) + linear(h, f, True) + 2 * h
    return vocab * h + depth * block + 2 * h + linear(vocab, h, True)


def sizes(kind: str, vocab: int, h: int, f: int, depth: int, heads: int, kv_heads: int, **more: object) -> dict:
    return {
        'type': kind,
        'vocab_size': vocab,
        'hidden_size': h,
        'intermediate_size': f,
        'num_hidden_layers': depth,
        'num_attention_heads': heads,
        'num_key_value_heads': kv_heads,
        **more,
    }


LANGUAGE = {
    'TinyLlama-1.1B': (
        sizes('Llama', 32000, 2048, 5632, 22, 32, 4),
        decoder(32000, 2048, 5632, 22, 32, 4),
        1_100_048_384,
    ),
    'Vicuna-7B': (
        sizes('Llama', 32000, 4096, 11008, 32, 32, 32),
        decoder(32000, 4096, 11008, 32, 32, 32),
        6_738_415_616,
    ),
    'Vicuna-13B': (
        sizes('Llama', 32000, 5120, 13824, 40, 40, 40),
        decoder(32000, 5120, 13824, 40, 40, 40),
        13_015_864_320,
    ),
    'Mistral-7B': (
        sizes('Mistral', 32000, 4096, 14336, 32, 32, 8),
        decoder(32000, 4096, 14336, 32, 32, 8),
        7_241_732_096,
    ),
    'StableLM-2-1.6B': (
        sizes('StableLM', 100352, 2048, 5632, 24, 32, 32, use_qkv_bias=True),
        stablelm(100352, 2048, 5632, 24),
        1_644_515_328,
    ),
    'Phi-2': (
        sizes('Phi', 51200, 2560, 10240, 32, 32, 32, partial_rotary_factor=0.4),
        phi(51200, 2560, 10240, 32),
        2_779_683_840,
    ),
    'Gemma-2B': (
        sizes('Gemma', 256000, 2048, 16384, 18, 8, 1, head_dim=256),
        gemma(256000, 2048, 16384, 18, 8, 1, 256),
        2_506_172_416,
    ),
    'MiniCPM-2B': (
        sizes('MiniCPM', 122753, 2304, 5760, 40, 36, 36, scale_emb=12, scale_depth=1.4, dim_model_base=256),
        tied(decoder(122753, 2304, 5760, 40, 36, 36), 122753, 2304),
        2_724_880_896,
    ),
    'Qwen2-0.5B': (
        sizes('Qwen2', 151936, 896, 4864, 24, 14, 2, tie_word_embeddings=True),
        tied(decoder(151936, 896, 4864, 24, 14, 2, qkv_bias=True), 151936, 896),
        494_032_768,
    ),
    'InternLM3-8B': (
        sizes('InternLM3', 128512, 4096, 10240, 48, 32, 2),
        decoder(128512, 4096, 10240, 48, 32, 2),
        8_804_241_408,
    ),
    'Qwen3-0.6B': (
        sizes('Qwen3', 151936, 1024, 3072, 28, 16, 8, head_dim=128, tie_word_embeddings=True),
        qwen3(151936, 1024, 3072, 28, 16, 8, 128),
        596_049_920,
    ),
}


@pytest.mark.parametrize(
    ('registry', 'config', 'worked_out', 'published'),
    [
        *((VISION_TOWERS, *row) for row in TOWERS.values()),
        *((LANGUAGE_MODELS, *row) for row in LANGUAGE.values()),
    ],
    ids=[*TOWERS, *LANGUAGE],
)
def test_every_published_part_has_exactly_its_parameters(registry, config, worked_out, published):
    with torch.device('meta'):
        part = registry.build(config)
    assert sum(parameter.numel() for parameter in part.parameters()) == worked_out == published


def test_tokens_of_the_published_towers():
    with torch.device('meta'):
        configs = {name: config for name, (config, *_) in TOWERS.items() if config['type'] != 'TimmViT'}
        towers = {name: VISION_TOWERS.build({**config, 'num_hidden_layers': 2}) for name, config in configs.items()}
    assert {name: tower.num_patches(tower.image_size) for name, tower in towers.items()} == {
        'CLIP-L/336': 576,
        'SigLIP-so400m/384': 729,
        'DINOv2-L': 37 * 37,
    }
