"""Mistral."""

from __future__ import annotations

from mmft.models.language.causal_lm import CausalLM
from mmft.models.language.family import LLAVA, Family
from mmft.registry import LANGUAGE_MODELS

__all__ = ['Mistral']


@LANGUAGE_MODELS.register_module()
class Mistral(CausalLM):
    """Mistral (LLaVA-1.6's 7B); ``sliding_window=None`` attends to everything, as its later versions do."""

    family = Family(
        architecture='MistralForCausalLM',
        model_type='mistral',
        template='mistral',
        layouts=(*LLAVA, 'llava_official'),
    )
