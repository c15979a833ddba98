"""MiniCPM."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import AutoConfig

from mmft.checks import check_numbers
from mmft.errors import ConfigError
from mmft.models.language.causal_lm import CausalLM
from mmft.models.language.family import Family
from mmft.registry import LANGUAGE_MODELS

__all__ = ['MiniCPM']

# Granite's name of each scale, and what it is in MiniCPM's terms.
_GRANITE_SCALES = ('embedding_multiplier', 'residual_multiplier', 'attention_multiplier', 'logits_scaling')
_MINICPM_SCALES = {'scale_emb': 12.0, 'scale_depth': 1.4, 'dim_model_base': 256}


@LANGUAGE_MODELS.register_module()
class MiniCPM(CausalLM):
    """MiniCPM (arXiv:2404.06395) as transformers' Granite: a Llama with three scales.

    Args: as ``CausalLM``, and MiniCPM's own names, which become Granite's. The defaults are MiniCPM-2B's.
        scale_emb: the embeddings, and picture features with them, are multiplied by it.
        scale_depth: every residual branch is multiplied by ``scale_depth / sqrt(num_hidden_layers)``.
        dim_model_base: the last hidden state is divided by ``hidden_size / dim_model_base``.

    Source: ``modeling_minicpm.py`` of openbmb/MiniCPM-2B. A config in Granite's own names is taken as it is.
    """

    family = Family(
        architecture='MiniCPMForCausalLM',
        model_type='minicpm',
        computed_by=('GraniteForCausalLM', 'granite'),
        silent=_GRANITE_SCALES,
        template='vicuna_v1',
        layouts=('llava_hf',),
        pytorch='LMDeploy has no such language model',
    )

    @classmethod
    def config_names(cls) -> set[str]:
        """Granite's and MiniCPM's."""
        return {*super().config_names(), *_MINICPM_SCALES}

    @classmethod
    def translate(cls, config: dict[str, Any]) -> dict[str, Any]:
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
        shape = AutoConfig.for_model(cls.family.hf_model_type, **plain)
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
