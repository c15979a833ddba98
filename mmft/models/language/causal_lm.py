"""Language models through transformers: one skin, one small class per family.

No modeling code of ours and none from a hub: InternLM2 is a Llama with packed attention weights (the layouts unpack
them, see ``mmft/checkpoint/layouts``), the others are transformers' own classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from mmft.errors import ConfigError
from mmft.models.base import LanguageModel
from mmft.models.language.packed_attention import PACKED_SDPA, segments_of
from mmft.registry import LANGUAGE_MODELS

__all__ = ['CausalLM', 'InternLM2', 'Llama', 'Phi3', 'Qwen2']


class CausalLM(LanguageModel):
    """A transformers ``*ForCausalLM`` as the language model of a ``VLM``.

    Args:
        attn_implementation: ``sdpa``, ``eager``, ``flash_attention_2``... as transformers names them. sdpa needs no
            extra package and runs on every card.
        config: transformers' own config names (``vocab_size``, ``hidden_size``, ``num_hidden_layers``...).

    Attributes:
        lm: the transformers model; ``lm.config`` is its config.
    """

    model_type: str

    def __init__(self, attn_implementation: str = 'sdpa', **config: Any) -> None:
        super().__init__()
        hf_config = self.hf_config(config)
        if attn_implementation == 'sdpa':
            attn_implementation = PACKED_SDPA  # the same, and packed rows without their L x L mask
        # A model that was built from a config has no `architectures`; exports and LMDeploy need it.
        self.lm: PreTrainedModel = AutoModelForCausalLM.from_config(hf_config, attn_implementation=attn_implementation)
        self.lm.config.architectures = [type(self.lm).__name__]
        self.hidden_size: int = hf_config.hidden_size
        self.vocab_size: int = hf_config.vocab_size

    @staticmethod
    def translate(config: dict[str, Any]) -> dict[str, Any]:
        """The family's own config names to transformers' names."""
        return config

    @classmethod
    def hf_config(cls, config: Mapping[str, Any]) -> PreTrainedConfig:
        """transformers' config, with its defaults for what ``config`` leaves out.

        Raises:
            ConfigError: transformers refuses it.
        """
        try:
            return AutoConfig.for_model(cls.model_type, **cls.translate(dict(config)))
        except (TypeError, ValueError, StrictDataclassError) as error:
            raise ConfigError(
                f'{cls.__name__}: transformers refuses this config: {error}',
                expected=f"the names of transformers' {cls.model_type!r} config",
            ) from error

    @classmethod
    def config_names(cls) -> set[str]:
        """What a config of this family may say. (transformers takes any name, also a misspelt one, in silence.)"""
        known = AutoConfig.for_model(cls.model_type).to_dict()
        return {*known, 'type', 'attn_implementation', 'rope_theta', 'rope_scaling', 'partial_rotary_factor'}

    @property
    def layers(self) -> nn.ModuleList:
        """The transformer blocks."""
        return self.lm.model.layers

    def embed(self, input_ids: Tensor) -> Tensor:
        """(B,L) -> (B,L,Dl)."""
        return self.lm.get_input_embeddings()(input_ids)

    def hidden(self, inputs_embeds: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None) -> Tensor:
        """(B,L,Dl) -> (B,L,Dl). Without a mask, ``position_ids`` that restart at 0 keep packed samples apart."""
        packed = {}
        if self.lm.config._attn_implementation == PACKED_SDPA:
            packed = {'segments': segments_of(attention_mask, position_ids)}
        return self.lm.model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=False,
            **packed,
        ).last_hidden_state

    def head(self, hidden: Tensor) -> Tensor:
        """(...,Dl) -> (...,V)."""
        return self.lm.lm_head(hidden)

    def linear_head(self) -> tuple[Tensor, Tensor | None] | None:
        """(weight (V,Dl), bias (V,) or None) where the head is one plain linear map, else None.

        None also under ZeRO-3, where the weight is gathered only inside the module's own forward.
        """
        head = self.lm.lm_head
        if type(head) is not nn.Linear or head.weight.numel() == 0:
            return None
        return head.weight, head.bias

    @torch.no_grad()
    def generate(self, inputs_embeds: Tensor, attention_mask: Tensor | None, **kwargs: Any) -> Tensor:
        """(B,L,Dl) -> (B,new) ids, without the prompt; ``kwargs`` as transformers' ``generate``."""
        return self.lm.generate(inputs_embeds=inputs_embeds, attention_mask=attention_mask, **kwargs)

    def reset_buffers(self) -> None:
        """Compute buffers that are in no checkpoint (rope tables) anew, after a build on the meta device."""
        for module in self.lm.modules():
            stale = [name for name, buffer in module._buffers.items() if buffer is not None and buffer.is_meta]
            for name in stale:
                module._buffers[name] = torch.empty_like(module._buffers[name], device='cpu')
            if stale:
                self.lm._init_weights(module)

    def gradient_checkpointing_enable(self) -> None:
        """Recompute each block in the backward pass."""
        self.lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={'use_reentrant': False})


@LANGUAGE_MODELS.register_module()
class Llama(CausalLM):
    """Llama and everything of its shape (Vicuna, TinyLlama).

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
