"""StableLM 2."""

from __future__ import annotations

from mmft.models.language.causal_lm import CausalLM
from mmft.models.language.family import Family
from mmft.registry import LANGUAGE_MODELS

__all__ = ['StableLM']


@LANGUAGE_MODELS.register_module()
class StableLM(CausalLM):
    """StableLM 2 (1.6B, 12B): LayerNorm, biases on queries, keys and values, rope on a quarter of each head."""

    family = Family(
        architecture='StableLmForCausalLM',
        model_type='stablelm',
        marks=('mlp.gate_proj.weight', 'input_layernorm.weight', 'input_layernorm.bias'),
        silent=('layer_norm_eps', 'partial_rotary_factor'),
        template='stablelm',
        pytorch='LMDeploy has no such language model',
    )
