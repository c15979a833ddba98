"""BLIP-2's vision tower (``Blip2VisionModel`` of transformers) read as the timm ViT that it is.

EVA-CLIP's ViT-g/14 without its last block. The norm behind its blocks is the Q-Former's ``vision_norm``
(``projectors.py`` reads it), so that the tower returns what other towers do: the last block's features.

Source: ``transformers/models/blip_2/modeling_blip_2.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmft.layouts.rules import Rule

__all__ = ['blip2_tower', 'is_blip2']

_RENAMES = {
    'embeddings.class_embedding': 'cls_token', 'embeddings.position_embedding': 'pos_embed',
    'embeddings.patch_embedding.{k}': 'patch_embed.proj.{k}',
    'encoder.layers.{n}.layer_norm1.{k}': 'blocks.{n}.norm1.{k}',
    'encoder.layers.{n}.layer_norm2.{k}': 'blocks.{n}.norm2.{k}',
    'encoder.layers.{n}.self_attn.qkv.{k}': 'blocks.{n}.attn.qkv.{k}',
    'encoder.layers.{n}.self_attn.projection.{k}': 'blocks.{n}.attn.proj.{k}',
    'encoder.layers.{n}.mlp.{x}': 'blocks.{n}.mlp.{x}',
}  # fmt: skip
_IGNORED = (
    'vision_model.post_layernorm.{x}', 'post_layernorm.{x}', 'query_tokens', 'qformer.{x}', 'language_projection.{x}',
    'language_model.{x}', 'embeddings.word_embeddings.{x}', 'embeddings.position_embeddings.{x}',
    'vision_projection.{x}', 'text_projection.{x}', 'itm_head.{x}',
)  # fmt: skip


def is_blip2(config: Mapping[str, Any]) -> bool:
    """Whether ``config`` (a ``config.json``) is that of a BLIP-2, or of its vision model alone."""
    return config.get('model_type') in ('blip-2', 'blip_2_vision_model')


def blip2_tower(
    config: Mapping[str, Any], theirs: str, ours: str = 'vision.'
) -> tuple[dict[str, Any], list[Rule], tuple[str, ...]]:
    """Settings of the tower's dict, its names on disk and ours, and what else lies there.

    Args:
        config: of the directory.
        theirs, ours: what stands before the names.
    """
    vision = config.get('vision_config') or config
    defaults = {'num_hidden_layers': 39, 'image_size': 224}  # transformers writes only what differs from its defaults
    depth, side = (vision.get(name, default) for name, default in defaults.items())
    settings = {'type': 'TimmViT', 'depth': depth, 'image_size': side, 'final_norm': False}
    rules = [
        Rule(f'{theirs}{form}{name}', f'{ours}tower.{own}')
        for form in ('vision_model.', '')
        for name, own in _RENAMES.items()
    ]
    return settings, rules, tuple(theirs + name for name in _IGNORED)
