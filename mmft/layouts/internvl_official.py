"""OpenGVLab's own layout (``InternVLChatModel``): InternVL2 as published, read as data, its Python files ignored.

Sources: ``configuration_internvl_chat.py``, ``modeling_internvl_chat.py`` and ``modeling_internlm2.py`` of
OpenGVLab/InternVL.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from mmft.errors import CheckpointError, ConfigError
from mmft.files.directory import ModelDirectory
from mmft.layouts.architectures import ARCHITECTURES
from mmft.layouts.base import Layout, Rule
from mmft.layouts.language import HEADS

__all__ = ['InternVLOfficial', 'join_wqkv', 'llm_rules', 'split_wqkv']

VISION_DEFAULTS = {
    'hidden_size': 3200, 'num_hidden_layers': 48, 'num_attention_heads': 25, 'intermediate_size': 12800,
    'image_size': 224, 'patch_size': 14, 'qkv_bias': False, 'qk_normalization': True, 'norm_type': 'rms_norm',
    'layer_norm_eps': 1e-6, 'hidden_act': 'gelu', 'dropout': 0.0, 'attention_dropout': 0.0, 'drop_path_rate': 0.0,
    'initializer_factor': 0.1, 'initializer_range': 0.02,
}  # fmt: skip
"""What ``vision_config`` holds, and what the original (``InternVisionConfig``) takes where an entry is left out."""
LLM_TYPES = {ARCHITECTURES[kind][0]: kind for kind in ('InternLM2', 'Phi3', 'Qwen2', 'Llama')}
LLM_FIELDS = (
    'vocab_size', 'hidden_size', 'intermediate_size', 'num_hidden_layers', 'num_attention_heads',
    'num_key_value_heads', 'hidden_act', 'max_position_embeddings', 'initializer_range', 'rms_norm_eps', 'rope_theta',
    'rope_scaling', 'bias', 'attention_bias', 'mlp_bias', 'head_dim', 'bos_token_id', 'eos_token_id', 'pad_token_id',
    'attention_dropout', 'original_max_position_embeddings', 'partial_rotary_factor', 'sliding_window',
    'use_sliding_window', 'max_window_layers', 'resid_pdrop', 'embd_pdrop',
)  # fmt: skip


def split_wqkv(packed: Tensor, num_heads: int, num_kv_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """InternLM2's packed rows (kv_heads, group + 2, head_dim) -> query, key, value rows as Llama has them.

    Args:
        packed: weight ((heads + 2 kv_heads) * head_dim, Dl) or bias of the same rows.
    """
    grouped = rearrange(packed, '(h g d) ... -> h g d ...', h=num_kv_heads, g=num_heads // num_kv_heads + 2)
    query = rearrange(grouped[:, :-2], 'h g d ... -> (h g d) ...')
    key, value = (rearrange(grouped[:, i], 'h d ... -> (h d) ...') for i in (-2, -1))
    return query.contiguous(), key.contiguous(), value.contiguous()


def join_wqkv(query: Tensor, key: Tensor, value: Tensor, num_heads: int, num_kv_heads: int) -> tuple[Tensor]:
    """The inverse of ``split_wqkv``."""
    query = rearrange(query, '(h g d) ... -> h g d ...', h=num_kv_heads, g=num_heads // num_kv_heads)
    key, value = (rearrange(t, '(h d) ... -> h 1 d ...', h=num_kv_heads) for t in (key, value))
    return (rearrange(torch.cat([query, key, value], dim=1), 'h g d ... -> (h g d) ...'),)


class InternVLOfficial(Layout):
    """The layout of OpenGVLab/InternVL2-* directories.

    Args:
        model: mmft's ``model`` dict.
        options: the entries of ``config.json`` that concern pictures and prompts.
    """

    architecture = 'InternVLChatModel'

    def __init__(self, model: dict[str, Any], options: dict[str, Any] | None = None) -> None:
        self._model, self.options = model, options or {}

    @classmethod
    def from_config(cls, config: dict[str, Any], directory: ModelDirectory | None = None) -> InternVLOfficial:
        vision, llm = config['vision_config'], config['llm_config']
        kind = (llm.get('architectures') or [None])[0]
        if kind not in LLM_TYPES:
            raise CheckpointError(
                f'llm_config.architectures = {llm.get("architectures")}', expected=f'one of {sorted(LLM_TYPES)}'
            )
        tower = {key: vision.get(key, default) for key, default in VISION_DEFAULTS.items()}
        model = {
            'type': 'VLM',
            'vision': {'type': 'InternViT', **tower, 'select_layer': config.get('select_layer', -1)},
            'projector': {
                'type': 'PixelShuffleMLP',
                'scale': config.get('downsample_ratio', 0.5),
                # The original's config default is v1; every published InternVL2 says v2 in its file.
                'version': config.get('ps_version', 'v1'),
            },
            # InternVLChatConfig forces tie_word_embeddings to False for every language model, so a head in the file is
            # taken. One that no file holds was left out by safetensors, because it is the embedding itself.
            'llm': {
                'type': LLM_TYPES[kind],
                'tie_word_embeddings': bool(llm.get('tie_word_embeddings')) and _lacks_head(directory),
                # A null token id is a choice; left out, Phi3's own default would lie outside a small vocabulary.
                **{k: llm[k] for k in LLM_FIELDS if k in llm and (llm[k] is not None or k.endswith('_token_id'))},
            },
        }
        return cls(model, config)

    @classmethod
    def from_model(cls, model_config: dict[str, Any]) -> InternVLOfficial:
        kinds = (model_config['vision']['type'], model_config['projector']['type'], model_config['llm']['type'])
        if kinds[:2] != ('InternViT', 'PixelShuffleMLP') or kinds[2] not in LLM_TYPES.values():
            raise ConfigError(
                f'the official InternVL2 layout cannot hold {" + ".join(kinds)}',
                expected=f'InternViT + PixelShuffleMLP + one of {sorted(LLM_TYPES.values())}',
                fix='use --layout hf',
            )
        return cls(model_config)

    @property
    def model_config(self) -> dict[str, Any]:
        return self._model

    def encoder_config(self, directory: Path) -> dict[str, Any]:
        get = self.options.get
        size = get('force_image_size') or self._model['vision']['image_size']
        if get('dynamic_image_size', False):
            tiler = {
                'type': 'DynamicTiler',
                'tile_size': size,
                'min_tiles': get('min_dynamic_patch', 1),
                'max_tiles': get('max_dynamic_patch', 6),
                'thumbnail': get('use_thumbnail', False),
            }
        else:
            tiler = {'type': 'PadSquare' if get('pad2square') else 'Resize', 'tile_size': size}
        return {'type': 'ChatEncoder', 'template': get('template') or 'internlm2-chat', 'image_processor': tiler}

    @property
    def rules(self) -> list[Rule]:
        return [
            Rule('vision_model.{x}', 'vision.{x}'),
            Rule('mlp1.{x}', 'projector.mlp.{x}'),
            *llm_rules(self._model['llm'], 'language_model.'),
        ]


def _lacks_head(directory: ModelDirectory | None) -> bool:
    return directory is not None and not any(key.endswith(HEADS) for key in directory.tensors)


def llm_rules(llm: dict[str, Any], theirs: str) -> list[Rule]:
    """Names of a causal language model's tensors.

    Args:
        llm: its dict in ``model``.
        theirs: what stands before them on disk.
    """
    if llm['type'] != 'InternLM2':
        return [Rule(theirs + '{x}', 'llm.lm.{x}')]
    heads = llm['num_attention_heads']
    shape = {'num_heads': heads, 'num_kv_heads': llm.get('num_key_value_heads') or heads}
    block, ours = theirs + 'model.layers.{n}.', 'llm.lm.model.layers.{n}.'
    renames = {
        'attention.wo': 'self_attn.o_proj', 'feed_forward.w1': 'mlp.gate_proj', 'feed_forward.w3': 'mlp.up_proj',
        'feed_forward.w2': 'mlp.down_proj',
        'attention_norm': 'input_layernorm', 'ffn_norm': 'post_attention_layernorm',
    }  # fmt: skip
    return [
        Rule(
            block + 'attention.wqkv.{k}',
            tuple(f'{ours}self_attn.{p}_proj.{{k}}' for p in 'qkv'),
            lambda packed: split_wqkv(packed, **shape),
            lambda q, k, v: join_wqkv(q, k, v, **shape),
        ),
        *(Rule(f'{block}{a}.{{k}}', f'{ours}{b}.{{k}}') for a, b in renames.items()),
        Rule(theirs + 'model.tok_embeddings.{k}', 'llm.lm.model.embed_tokens.{k}'),
        Rule(theirs + 'model.norm.{k}', 'llm.lm.model.norm.{k}'),
        Rule(theirs + 'output.{k}', 'llm.lm.lm_head.{k}'),
    ]
