"""Tiny LLaVAs: any tower and language model that transformers' own LLaVA classes can hold."""

from __future__ import annotations

from typing import Any

from mmft.data import ChatEncoder
from mmft.models.language.family import families
from tests.helpers import GOLDEN

CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
TOKENIZERS = {
    'Llama': 'llama_legacy', 'Mistral': 'llama_nonlegacy', 'Phi3': 'phi3_rstrip_additional', 'Phi': 'phi2',
    'StableLM': 'stablelm', 'Gemma': 'gemma', 'MiniCPM': 'llama_legacy', 'InternLM2': 'internlm2',
    'InternLM3': 'internlm2',
}  # fmt: skip
"""Of the golden ones; families that are not here have Qwen2's."""
FAMILY = {
    'MiniCPM': {'scale_emb': 12, 'scale_depth': 1.4, 'dim_model_base': 8},
    'Phi': {'num_key_value_heads': 4},
    'Gemma': {'head_dim': 16, 'tie_word_embeddings': True},
    'Qwen2': {'tie_word_embeddings': True},
    'Qwen3': {'head_dim': 16},
}
PINPOINTS = [[56, 112], [112, 56], [112, 112], [168, 56], [56, 168]]
ANYRES = {'type': 'AnyResTiler', 'grid_pinpoints': PINPOINTS, 'tile_size': 56}
ONEVISION = {'type': 'OneVisionTiler', 'tile_size': 56, 'shrink_to': 4}
ONEVISION_PARTS = {'tower': 'SigLIP', 'vision': {'select_layer': -1}, 'merge': {'type': 'AnyResMerge', 'shrink_to': 4}}
"""Of ``llava_config``: SigLIP's last block, and a plane shrunk to what 4 tiles are."""
PIXELS = {
    'CLIP': {'pixel_mean': CLIP_MEAN, 'pixel_std': CLIP_STD},
    'SigLIP': {'pixel_mean': [0.5] * 3, 'pixel_std': [0.5] * 3},
    'DINOv2': {},  # ImageNet's, the default
}
TOWERS: dict[str, dict[str, Any]] = {
    'CLIP': {'type': 'CLIP', 'select_layer': -2, 'hidden_act': 'quick_gelu'},
    'SigLIP': {'type': 'SigLIP', 'select_layer': -2},
    'DINOv2': {'type': 'DINOv2', 'select_layer': -1},
}


def llava_encoder(kind: str = 'Llama', image_processor: dict[str, Any] | None = None, **more: Any) -> ChatEncoder:
    """Tiles of 56 px, 16 tokens each."""
    options = {
        'tokenizer': GOLDEN / 'tokenizers' / TOKENIZERS.get(kind, 'qwen2'),
        'template': families()[kind].template,
        'image_processor': image_processor or {'type': 'PadSquare', 'tile_size': 56, 'mean': CLIP_MEAN},
        'tokens_per_tile': 16,
        'image_start': '',
        'image_token': '<image>',
        'image_end': '',
        'images_first': True,
        'add_tokens': True,
    }
    return ChatEncoder(**{**options, **more})


def llava_config(kind: str = 'Llama', tower: str = 'CLIP', spare: int = 5, **parts: Any) -> dict[str, Any]:
    """A model dict.

    Args:
        spare: rows of the tables beyond the tokenizer's; -1 leaves the placeholder without a row, as Vicuna does.
        parts: changes of ``vision``, ``projector``, ``llm``; ``merge`` as it is.
    """
    own = {part: parts.pop(part, {}) for part in ('vision', 'projector', 'llm')}
    return {
        'type': 'VLM',
        'vision': {
            'hidden_size': 48, 'num_hidden_layers': 3, 'num_attention_heads': 4, 'intermediate_size': 96,
            'image_size': 56, 'patch_size': 14, **TOWERS[tower], **own['vision'],
        },
        'projector': {'type': 'MLP', 'depth': 2, **own['projector']},
        'llm': {
            'type': kind, 'vocab_size': len(llava_encoder(kind).tokenizer) + spare, 'hidden_size': 64,
            'intermediate_size': 96, 'num_hidden_layers': 2, 'num_attention_heads': 4, 'num_key_value_heads': 2,
            'max_position_embeddings': 512, 'bos_token_id': 1, 'eos_token_id': 2, 'pad_token_id': 0,
            **FAMILY.get(kind, {}), **own['llm'],
        },
        **PIXELS[tower],
        **parts,
    }  # fmt: skip
