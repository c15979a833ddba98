"""Phi-1, 1.5 and 2."""

from __future__ import annotations

from mmft.models.language.causal_lm import CausalLM
from mmft.models.language.family import Family
from mmft.registry import LANGUAGE_MODELS

__all__ = ['Phi']


@LANGUAGE_MODELS.register_module()
class Phi(CausalLM):
    """Phi-1, 1.5 and 2: attention and MLP side by side, biases everywhere, the output head's too.

    Phi-2's attention scores pass 65,504, the largest float16. sdpa sums them in float32; ``eager`` does not and gives
    infinities in float16, so keep sdpa there.
    """

    family = Family(
        architecture='PhiForCausalLM',
        model_type='phi',
        marks=('mlp.fc1.weight',),
        silent=('layer_norm_eps', 'partial_rotary_factor'),
        linear_layers=('q_proj', 'k_proj', 'v_proj', 'dense', 'fc1', 'fc2'),
        template='phi',
        pytorch='LMDeploy has no such language model',
    )
