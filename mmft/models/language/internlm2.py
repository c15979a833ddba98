"""InternLM2: a Llama whose own directories pack queries, keys and values, and name tensors otherwise.

Source: ``modeling_internlm2.py`` of OpenGVLab/InternVL.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from mmft.models.language.causal_lm import CausalLM
from mmft.models.language.family import FIELDS, INTERNVL, Family, Tensors
from mmft.registry import LANGUAGE_MODELS

__all__ = ['InternLM2', 'join_wqkv', 'split_wqkv']


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


_BLOCK = 'model.layers.{n}.'
_RENAMES = {
    'attention.wo': 'self_attn.o_proj', 'feed_forward.w1': 'mlp.gate_proj', 'feed_forward.w3': 'mlp.up_proj',
    'feed_forward.w2': 'mlp.down_proj', 'attention_norm': 'input_layernorm', 'ffn_norm': 'post_attention_layernorm',
}  # fmt: skip
_TENSORS = (
    Tensors(
        _BLOCK + 'attention.wqkv.{k}',
        tuple(f'{_BLOCK}self_attn.{part}_proj.{{k}}' for part in 'qkv'),
        split_wqkv,
        join_wqkv,
    ),
    *(Tensors(f'{_BLOCK}{theirs}.{{k}}', f'{_BLOCK}{ours}.{{k}}') for theirs, ours in _RENAMES.items()),
    Tensors('model.tok_embeddings.{k}', 'model.embed_tokens.{k}'),
    Tensors('model.norm.{k}', 'model.norm.{k}'),
    Tensors('output.{k}', 'lm_head.{k}'),
)


@LANGUAGE_MODELS.register_module()
class InternLM2(CausalLM):
    """InternLM2 (InternVL2-2B, 8B, 26B) as the Llama it is; ``bias`` covers attention only, as there."""

    family = Family(
        architecture='InternLM2ForCausalLM',
        model_type='internlm2',
        computed_by=('LlamaForCausalLM', 'llama'),
        marks=('feed_forward.w1.weight',),
        names={'bias': 'attention_bias'},
        fields=tuple(name for name in FIELDS if name not in ('mlp_bias', 'head_dim', 'attention_dropout')),
        tensors=_TENSORS,
        head='output',
        template='internlm2-chat',
        internvl_template='internlm2-chat',
        layouts=(*INTERNVL, 'llava_hf'),
    )
