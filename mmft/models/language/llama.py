"""Llama and everything of its shape."""

from __future__ import annotations

from mmft.models.language.causal_lm import CausalLM
from mmft.models.language.family import INTERNVL, LLAVA, Family
from mmft.registry import LANGUAGE_MODELS

__all__ = ['Llama']


@LANGUAGE_MODELS.register_module()
class Llama(CausalLM):
    """Llama and everything of its shape (Vicuna, TinyLlama, Yi, Llama 3).

    >>> import torch
    >>> llm = Llama(vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    >>> llm.embed(torch.zeros(1, 5, dtype=torch.long)).shape
    torch.Size([1, 5, 16])
    """

    family = Family(
        architecture='LlamaForCausalLM',
        model_type='llama',
        marks=('mlp.gate_proj.weight',),
        template='vicuna_v1',
        # LLaVA-1.6-34B speaks ChatML. Of the Llama 3s LLaVA-NeXT's have a system message, XTuner's none. XTuner splits
        # the packed weights of Phi-3, which is then a Llama.
        dialects={
            '<|im_start|>': ('chatml', 'chatml'),
            '<|eot_id|>': ('llama3', 'llava_llama_3'),
            '<|end|>': ('phi3', 'phi3'),
        },
        internvl_template='internvl2_5',
        layouts=(*INTERNVL, *LLAVA, 'llava_official'),
    )
