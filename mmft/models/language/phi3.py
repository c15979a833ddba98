"""Phi-3."""

from __future__ import annotations

from typing import Any

from mmft.models.language.causal_lm import CausalLM
from mmft.models.language.family import INTERNVL, Family
from mmft.registry import LANGUAGE_MODELS

__all__ = ['Phi3']


@LANGUAGE_MODELS.register_module()
class Phi3(CausalLM):
    """Phi-3 (InternVL2-4B): queries, keys and values in one matrix, gate and up in another."""

    family = Family(
        architecture='Phi3ForCausalLM',
        model_type='phi3',
        marks=('mlp.gate_up_proj.weight',),
        rope={'longrope': 'su'},
        linear_layers=('qkv_proj', 'o_proj', 'gate_up_proj', 'down_proj'),
        template='phi3',
        internvl_template='phi3-chat',
        layouts=(*INTERNVL, 'llava_hf'),
        turbomind='TurboMind has no Phi3',
    )

    @classmethod
    def translate(cls, config: dict[str, Any]) -> dict[str, Any]:
        """``su`` -> ``longrope``, its lengths left to ``original_max_position_embeddings``."""
        scaling = config.get('rope_scaling')
        if scaling and scaling.get('type', scaling.get('rope_type')) in ('su', 'longrope'):
            factors = {key: list(scaling[key]) for key in ('short_factor', 'long_factor')}
            config = {**config, 'rope_scaling': {'rope_type': 'longrope', 'type': 'longrope', **factors}}
        return config
