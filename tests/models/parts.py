"""A small config of every registered part. A new one whose constructor takes the common arguments needs no line."""

from __future__ import annotations

from typing import Any

from mmft.registry import LANGUAGE_MODELS, PROJECTORS, VISION_TOWERS

SIDE, DV, DL, VOCABULARY, SLOT = 56, 32, 24, 64, 60

# The common arguments.
TOWER = {
    'hidden_size': DV,
    'num_hidden_layers': 2,
    'num_attention_heads': 2,
    'intermediate_size': 64,
    'image_size': SIDE,
}
LLM = {
    'vocab_size': VOCABULARY,
    'hidden_size': DL,
    'intermediate_size': 32,
    'num_hidden_layers': 2,
    'num_attention_heads': 2,
    'num_key_value_heads': 1,
    'pad_token_id': 0,
    'bos_token_id': 1,
    'eos_token_id': 2,
}
# Language models: in addition to the common arguments.
SPECIAL = {
    'Gemma': {'head_dim': 12},
    'MiniCPM': {'dim_model_base': 8},
    'Phi3': {'original_max_position_embeddings': 4096},
    'Qwen3': {'head_dim': 16},
    'StableLM': {'partial_rotary_factor': 0.5},
}
# Towers: instead of the common arguments.
OWN_TOWER = {
    'MoFTower': {'towers': [{'type': 'CLIP', **TOWER}, {'type': 'DINOv2', **TOWER}]},
    'TimmBackbone': {
        'model_name': 'swin_tiny_patch4_window7_224',
        'image_size': SIDE,
        'patch_size': 7,
        'embed_dim': DV // 2,
        'depths': [1, 1],
        'num_heads': [2, 2],
        'window_size': 2,
        'strict_img_size': False,
    },
    'TimmViT': {
        'model_name': 'vit_tiny_patch16_224',
        'image_size': SIDE,
        'patch_size': 14,
        'embed_dim': DV,
        'depth': 2,
        'num_heads': 2,
        'mlp_ratio': 2.0,
    },
}
# Projectors: small sizes.
PROJECTOR = {
    'BenchResampler': {'num_queries': 4, 'depth': 1, 'hidden_size': 24},
    'QFormer': {
        'num_queries': 4,
        'hidden_size': 16,
        'num_hidden_layers': 2,
        'num_attention_heads': 2,
        'intermediate_size': 32,
        'dropout': 0.0,
    },
    'Resampler': {'num_queries': 4, 'depth': 1, 'num_heads': 2, 'head_dim': 8},
}
# What a projector cannot do, with the word its error must have: any other refusal is a failure.
SAME_WIDTH = {'Identity': 'wide'}
SQUARE = {'PixelShuffleMLP': 'square'}

TOWERS, CONNECTORS, LLMS = VISION_TOWERS.names(), PROJECTORS.names(), LANGUAGE_MODELS.names()


def tower_config(name: str, **changes: Any) -> dict[str, Any]:
    """A tower of 16 patches in a tile of ``SIDE`` px, two blocks deep."""
    return {'type': name, **OWN_TOWER.get(name, TOWER), **changes}


def llm_config(name: str, **changes: Any) -> dict[str, Any]:
    """A language model of two layers, Dl = ``DL``."""
    return {'type': name, **LLM, **SPECIAL.get(name, {}), **changes}


def projector_config(name: str, **changes: Any) -> dict[str, Any]:
    """A projector, its widths left to the model."""
    return {'type': name, **PROJECTOR.get(name, {}), **changes}


def small_llm(name: str, width: int, **changes: Any) -> dict[str, Any]:
    """One layer, ``width`` = Dl."""
    heads = {'head_dim': width // 2} if 'head_dim' in SPECIAL.get(name, {}) else {}
    return llm_config(name, hidden_size=width, num_hidden_layers=1, **heads, **changes)
