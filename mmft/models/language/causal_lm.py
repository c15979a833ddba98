"""CausalLM: the one wrapper over transformers' causal language models. Each family is a file beside this one."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from mmft.checks import check_counts
from mmft.errors import ConfigError, ShapeError
from mmft.models.base import LanguageModel
from mmft.models.language.family import Family
from mmft.models.language.packed_attention import PACKED_SDPA, lengths_as_mask
from mmft.models.refusals import check_attention, refused_by

__all__ = ['CausalLM']

_COUNTS = ('vocab_size', 'hidden_size', 'intermediate_size', 'num_hidden_layers', 'num_attention_heads',
           'max_position_embeddings', 'original_max_position_embeddings', 'dim_model_base')  # fmt: skip
_COUNTS_OR_NONE = ('num_key_value_heads', 'head_dim', 'sliding_window')


class CausalLM(LanguageModel):
    """A transformers ``*ForCausalLM`` as the language model of a ``VLM``.

    Args:
        attn_implementation: ``sdpa``, ``eager``, ``flash_attention_2``... as transformers names them. sdpa needs no
            extra package and runs on every GPU.
        config: transformers' own config names (``vocab_size``, ``hidden_size``, ``num_hidden_layers``...).

    Attributes:
        family: what is known of the family.
        lm: the transformers model; ``lm.config`` is its config.
    """

    family: ClassVar[Family]

    def __init__(self, attn_implementation: str = 'sdpa', **config: Any) -> None:
        super().__init__()
        check_attention(type(self).__name__, attn_implementation)
        if unknown := sorted(set(config) - self.config_names()):
            raise ConfigError(
                f'{type(self).__name__}: no setting is named {unknown}',
                expected=f"the names of transformers' {self.family.hf_model_type!r} config",
                fix='correct the config',
            )
        hf_config = self.hf_config(config)
        if attn_implementation == 'sdpa':
            attn_implementation = PACKED_SDPA  # the same, and packed rows without their L x L mask
        # A model that was built from a config has no `architectures`; exports and LMDeploy need it.
        known = "a hidden_act, attn_implementation and pad_token_id that go with the rest, such as 'silu', 'sdpa' and 0"
        with refused_by('transformers', type(self).__name__, known):
            lm = AutoModelForCausalLM.from_config(hf_config, attn_implementation=attn_implementation)
        self.lm: PreTrainedModel = lm
        self.lm.config.architectures = [type(self.lm).__name__]
        self.hidden_size: int = hf_config.hidden_size
        self.vocab_size: int = hf_config.vocab_size

    @classmethod
    def translate(cls, config: dict[str, Any]) -> dict[str, Any]:
        """The family's own config names to transformers' names."""
        names = cls.family.names
        plain = {name: value for name, value in config.items() if name not in names}
        return plain | {names[name]: value for name, value in config.items() if name in names}

    @classmethod
    def hf_config(cls, config: Mapping[str, Any]) -> PreTrainedConfig:
        """transformers' config, with its defaults for what ``config`` leaves out.

        Raises:
            ConfigError: invalid sizes, transformers refuses it, or the heads do not divide the width.
        """
        # Before transformers sees them: it divides by some, and silently takes others.
        counts = {key: config[key] for key in _COUNTS if key in config}
        optional = {key: config[key] for key in _COUNTS_OR_NONE if config.get(key) is not None}
        check_counts(cls.__name__, **counts, **optional)
        kind = cls.family.hf_model_type
        with refused_by('transformers', cls.__name__, f"the names of transformers' {kind!r} config"):
            # A copy: transformers writes into the `rope_scaling` that it is given.
            resolved = AutoConfig.for_model(kind, **cls.translate(copy.deepcopy(dict(config))))
        cls._check_heads(resolved)
        return resolved

    @classmethod
    def _check_heads(cls, config: PreTrainedConfig) -> None:
        width, heads = config.hidden_size, config.num_attention_heads
        kv_heads = getattr(config, 'num_key_value_heads', None) or heads
        head_dim = getattr(config, 'head_dim', None) or width // heads
        rotary = int(head_dim * (config.rope_parameters or {}).get('partial_rotary_factor', 1.0))
        problems = []
        if width % heads and not getattr(config, 'head_dim', None):
            problems.append(f'hidden_size {width} is not divisible by num_attention_heads {heads}')
        if heads % kv_heads:
            problems.append(f'num_attention_heads {heads} is not divisible by num_key_value_heads {kv_heads}')
        if rotary % 2:
            problems.append(f'rope turns pairs, but partial_rotary_factor leaves it {rotary} of {head_dim} channels')
        if problems:
            raise ConfigError.gather([f'{cls.__name__}: {problem}' for problem in problems])

    @classmethod
    def config_names(cls) -> set[str]:
        """What a config of this family may say. (transformers silently takes any name, also a misspelt one.)"""
        known = {*AutoConfig.for_model(cls.family.hf_model_type).to_dict(), *cls.family.names}
        return {*known, 'type', 'attn_implementation', 'rope_theta', 'rope_scaling', 'partial_rotary_factor'}

    @property
    def layers(self) -> nn.ModuleList:
        """The transformer blocks."""
        return self.lm.model.layers

    @property
    def tables(self) -> list[nn.Module]:
        """The embedding and the output head; of tied ones both share their weight."""
        return [self.lm.get_input_embeddings(), self.lm.get_output_embeddings()]

    def add_rows(self, vocab_size: int) -> None:
        """Let embedding and head have ``vocab_size`` rows, where they have fewer.

        A new row is the mean of the rows there are: transformers' ``resize_token_embeddings`` starts there, too, but
        for a noise of a billionth of the rows' variance. As a row of the head it is never the most likely token.
        """
        if vocab_size <= self.vocab_size:
            return
        embedding, head = self.tables
        tied = head.weight is embedding.weight
        for table in self.tables:
            for name, old in list(table.named_parameters(recurse=False)):
                mean = old.detach().mean(0, dtype=torch.float32).to(old.dtype)
                new = torch.cat([old.detach(), mean.expand(vocab_size - len(old), *mean.shape)])
                setattr(table, name, nn.Parameter(new, requires_grad=old.requires_grad))
        if tied:
            head.weight = embedding.weight
        embedding.num_embeddings = head.out_features = vocab_size
        self.vocab_size = self.lm.vocab_size = self.lm.config.vocab_size = vocab_size

    def embed(self, input_ids: Tensor) -> Tensor:
        """(B,L) -> (B,L,Dl)."""
        try:
            return self.lm.get_input_embeddings()(input_ids)
        except IndexError:  # on a CPU; checking the ids first would make a GPU wait at every step
            raise ShapeError(
                f'{type(self).__name__}: input_ids from {int(input_ids.min())} to {int(input_ids.max())}',
                expected=f'ids from 0 to {self.vocab_size - 1}, the rows of its table',
                fix='encode with the tokenizer of this model',
            ) from None

    def hidden(self, inputs_embeds: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None) -> Tensor:
        """(B,L,Dl) -> (B,L,Dl). Without a mask, ``position_ids`` that restart at 0 keep packed samples apart."""
        if self.lm.config._attn_implementation == PACKED_SDPA:
            attention_mask = lengths_as_mask(attention_mask, position_ids)
        return self.lm.model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=False,
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
        """Recompute buffers that no checkpoint holds (rope tables, Gemma's scale), after a build on meta."""
        for module in self.lm.modules():
            stale = [name for name, buffer in module._buffers.items() if buffer is not None and buffer.is_meta]
            for name in stale:
                module._buffers[name] = torch.empty_like(module._buffers[name], device='cpu')
            if stale:
                weights = list(module.parameters(recurse=False))
                for weight in weights:  # transformers initialises a whole module, but skips what carries this flag
                    weight._is_hf_initialized = True
                self.lm._init_weights(module)
                for weight in weights:
                    del weight._is_hf_initialized

    def gradient_checkpointing_enable(self) -> None:
        """Recompute each block in the backward pass."""
        self.lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={'use_reentrant': False})
