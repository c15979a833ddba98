"""Qwen2 and Qwen2.5."""

from __future__ import annotations

from mmft.models.language.causal_lm import CausalLM
from mmft.models.language.family import INTERNVL, LLAVA, Family
from mmft.registry import LANGUAGE_MODELS

__all__ = ['Qwen2']


@LANGUAGE_MODELS.register_module()
class Qwen2(CausalLM):
    """Qwen2 (InternVL2-1B): a Llama with biases on queries, keys and values."""

    family = Family(
        architecture='Qwen2ForCausalLM',
        model_type='qwen2',
        also=('qwen',),
        marks=('mlp.gate_proj.weight', 'self_attn.q_proj.bias'),
        template='qwen2',
        internvl_template='Hermes-2',
        layouts=(*INTERNVL, *LLAVA),
    )
