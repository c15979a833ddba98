"""Gemma, the first one."""

from __future__ import annotations

from mmft.models.language.causal_lm import CausalLM
from mmft.models.language.family import Family
from mmft.registry import LANGUAGE_MODELS

__all__ = ['Gemma']


@LANGUAGE_MODELS.register_module()
class Gemma(CausalLM):
    """Gemma (the first one): head and embeddings are one matrix, embeddings are multiplied by sqrt(hidden_size).

    Picture features enter behind that scale, as in transformers' LLaVA.
    """

    family = Family(
        architecture='GemmaForCausalLM',
        model_type='gemma',
        template='gemma',
        pytorch="LMDeploy scales the pictures' features by Gemma's factor for embeddings",
    )
