"""The language-model families: one small class each, over transformers' own modeling code.

No modeling code of ours and none from a hub: InternLM2 is a Llama with packed attention weights (the layouts unpack
them, see ``mmft/layouts``), MiniCPM is a Granite under other names.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import AutoConfig

from mmft.checks import check_numbers
from mmft.errors import ConfigError
from mmft.models.language.causal_lm import CausalLM
from mmft.registry import LANGUAGE_MODELS

__all__ = ['Gemma', 'InternLM2', 'Llama', 'MiniCPM', 'Mistral', 'Phi', 'Phi3', 'Qwen2', 'StableLM']


@LANGUAGE_MODELS.register_module()
class Llama(CausalLM):
    """Llama and everything of its shape (Vicuna, TinyLlama).

    >>> import torch
    >>> llm = Llama(vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    >>> llm.embed(torch.zeros(1, 5, dtype=torch.long)).shape
    torch.Size([1, 5, 16])
    """

    model_type = 'llama'


@LANGUAGE_MODELS.register_module()
class Qwen2(CausalLM):
    """Qwen2 (InternVL2-1B)."""

    model_type = 'qwen2'


@LANGUAGE_MODELS.register_module()
class Phi3(CausalLM):
    """Phi-3 (InternVL2-4B); its ``su`` rope is transformers' ``longrope``."""

    model_type = 'phi3'

    @staticmethod
    def translate(config: dict[str, Any]) -> dict[str, Any]:
        """``su`` -> ``longrope``."""
        scaling = config.get('rope_scaling')
        if scaling and scaling.get('type', scaling.get('rope_type')) in ('su', 'longrope'):
            factors = {key: list(scaling[key]) for key in ('short_factor', 'long_factor')}
            config = {**config, 'rope_scaling': {'rope_type': 'longrope', 'type': 'longrope', **factors}}
        return config


@LANGUAGE_MODELS.register_module()
class InternLM2(CausalLM):
    """InternLM2 (InternVL2-2B, 8B, 26B) as the Llama it is; ``bias`` covers attention only, as there."""

    model_type = 'llama'

    @classmethod
    def config_names(cls) -> set[str]:
        """Llama's and ``bias``."""
        return {*super().config_names(), 'bias'}

    @staticmethod
    def translate(config: dict[str, Any]) -> dict[str, Any]:
        """``bias`` -> ``attention_bias``."""
        config = dict(config)
        if 'bias' in config:
            config['attention_bias'] = config.pop('bias')
        return config


@LANGUAGE_MODELS.register_module()
class Mistral(CausalLM):
    """Mistral (LLaVA-1.6's 7B); ``sliding_window=None`` attends to everything, as its later versions do."""

    model_type = 'mistral'


@LANGUAGE_MODELS.register_module()
class StableLM(CausalLM):
    """StableLM 2 (1.6B, 12B): LayerNorm, biases on queries, keys and values, rope on a quarter of each head."""

    model_type = 'stablelm'


@LANGUAGE_MODELS.register_module()
class Phi(CausalLM):
    """Phi-1, 1.5 and 2: attention and MLP side by side, biases everywhere, the output head's too.

    Phi-2's attention scores pass 65,504, the largest float16. sdpa sums them in float32; ``eager`` does not and gives
    infinities in float16, so keep sdpa there.
    """

    model_type = 'phi'


@LANGUAGE_MODELS.register_module()
class Gemma(CausalLM):
    """Gemma (the first one): head and embeddings are one matrix, embeddings are multiplied by sqrt(hidden_size).

    Picture features enter behind that scale, as in transformers' LLaVA.
    """

    model_type = 'gemma'


# Granite's name of each scale, and what it is in MiniCPM's words.
_GRANITE_SCALES = ('embedding_multiplier', 'residual_multiplier', 'attention_multiplier', 'logits_scaling')
_MINICPM_SCALES = {'scale_emb': 12.0, 'scale_depth': 1.4, 'dim_model_base': 256}


@LANGUAGE_MODELS.register_module()
class MiniCPM(CausalLM):
    """MiniCPM (arXiv:2404.06395) as transformers' Granite: a Llama with three scales.

    Args: as ``CausalLM``, and MiniCPM's own words, which become Granite's. The defaults are MiniCPM-2B's.
        scale_emb: the embeddings, and picture features with them, are multiplied by it.
        scale_depth: every residual branch is multiplied by ``scale_depth / sqrt(num_hidden_layers)``.
        dim_model_base: the last hidden state is divided by ``hidden_size / dim_model_base``.

    Source: ``modeling_minicpm.py`` of openbmb/MiniCPM-2B. A config in Granite's own names is taken as it is.
    """

    model_type = 'granite'

    @classmethod
    def config_names(cls) -> set[str]:
        """Granite's and MiniCPM's."""
        return {*super().config_names(), *_MINICPM_SCALES}

    @staticmethod
    def translate(config: dict[str, Any]) -> dict[str, Any]:
        """MiniCPM's three scales -> Granite's four; embeddings and head are one matrix unless it says otherwise."""
        theirs, ours = set(config) & set(_GRANITE_SCALES), set(config) & set(_MINICPM_SCALES)
        if theirs and ours:
            raise ConfigError(
                f'MiniCPM: {sorted(ours)} together with {sorted(theirs)}',
                expected="MiniCPM's names or Granite's",
                fix='remove one of the two',
            )
        if theirs:
            return config
        plain = {key: value for key, value in config.items() if key not in _MINICPM_SCALES}
        shape = AutoConfig.for_model('granite', **plain)
        scale = {key: config.get(key, default) for key, default in _MINICPM_SCALES.items()}
        check_numbers('MiniCPM', **scale)
        head_dim = config.get('head_dim') or shape.hidden_size // shape.num_attention_heads
        return {
            'tie_word_embeddings': True,
            **plain,
            'embedding_multiplier': scale['scale_emb'],
            'residual_multiplier': scale['scale_depth'] / shape.num_hidden_layers**0.5,
            'attention_multiplier': head_dim**-0.5,
            'logits_scaling': shape.hidden_size / scale['dim_model_base'],
        }

    def hidden(self, inputs_embeds: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None) -> Tensor:
        """(B,L,Dl) -> (B,L,Dl), divided by the logit scale here, as MiniCPM does: the head stays one linear map."""
        return super().hidden(inputs_embeds, attention_mask, position_ids) / self.lm.config.logits_scaling
