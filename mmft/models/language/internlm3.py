"""InternLM3: a Llama whose settings have other names.

Source: ``modeling_internlm3.py`` of internlm/internlm3-8b-instruct.
"""

from __future__ import annotations

from typing import Any

from mmft.errors import ConfigError
from mmft.models.language.causal_lm import CausalLM
from mmft.models.language.family import INTERNVL, Family
from mmft.registry import LANGUAGE_MODELS

__all__ = ['InternLM3']


@LANGUAGE_MODELS.register_module()
class InternLM3(CausalLM):
    """InternLM3 (InternVL3-9B) as the Llama it is; ``qkv_bias`` and ``bias``, of all other matrices, are set alike."""

    family = Family(
        architecture='InternLM3ForCausalLM',
        model_type='internlm3',
        computed_by=('LlamaForCausalLM', 'llama'),
        names={'qkv_bias': 'attention_bias', 'bias': 'mlp_bias'},
        rope_key='rope_type',
        template='chatml_newline',
        internvl_template='internvl2_5',
        layouts=(*INTERNVL, 'llava_hf'),
    )

    @classmethod
    def translate(cls, config: dict[str, Any]) -> dict[str, Any]:
        """``qkv_bias`` -> ``attention_bias``, ``bias`` -> ``mlp_bias``.

        Raises:
            ConfigError: one without the other: Llama's attention has biases in all four matrices or in none.
        """
        own = {name: bool(config.get(name)) for name in cls.family.names}
        if len(set(own.values())) > 1:
            given = ', '.join(f'{name} = {value}' for name, value in own.items())
            raise ConfigError(f'InternLM3: {given}', expected='the same for both', fix='set both to True or to False')
        return super().translate(config)
