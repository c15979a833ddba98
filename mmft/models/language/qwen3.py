"""Qwen3."""

from __future__ import annotations

from mmft.models.language.causal_lm import CausalLM
from mmft.models.language.family import INTERNVL, LLAVA, Family
from mmft.registry import LANGUAGE_MODELS

__all__ = ['Qwen3']


@LANGUAGE_MODELS.register_module()
class Qwen3(CausalLM):
    """Qwen3 (InternVL3.5): queries and keys normalised head by head, no biases, heads of a width of their own."""

    family = Family(
        architecture='Qwen3ForCausalLM',
        model_type='qwen3',
        marks=('mlp.gate_proj.weight', 'self_attn.q_norm.weight', 'self_attn.k_norm.weight'),
        template='qwen3',
        internvl_template='internvl2_5',
        layouts=(*INTERNVL, *LLAVA),
    )
