"""Language models inside directories: which family a config or tensors are of, its settings read and written, and the
names of its tensors. What differs between families stands in ``mmft/models/language``."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from mmft.errors import CheckpointError
from mmft.layouts.rules import Rule
from mmft.models.language.family import AS_COMPUTED, Family, families
from mmft.registry import LANGUAGE_MODELS

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

__all__ = ['NOT_THE_MODEL', 'by_class', 'family_of', 'family_of_keys', 'family_of_name', 'has_head', 'is_tied',
           'language_model', 'llm_rules', 'not_held', 'older_rope', 'published_config']  # fmt: skip

NOT_THE_MODEL = {
    'transformers_version', 'output_hidden_states', 'output_attentions', 'return_dict', 'id2label', 'label2id',
    'problem_type', '_name_or_path', 'chunk_size_feed_forward', 'is_encoder_decoder', 'attn_implementation',
}  # fmt: skip
"""Entries of transformers' configs that do not describe the model."""

_ELSEWHERE = {'architectures', 'model_type', 'type', 'torch_dtype', 'dtype', 'use_cache', 'rope_parameters'}
"""Those that mmft's config names differently, or not at all."""


def family_of(config: Mapping[str, Any]) -> str | None:
    """mmft's type for a language model's config: by ``architectures``, else by ``model_type``; None if unknown.

    >>> family_of({'model_type': 'qwen2'})
    'Qwen2'
    """
    own = {family.architecture: kind for kind, family in families().items()}
    known = (own[name] for name in config.get('architectures') or [] if name in own)
    return next(known, None) or family_of_name(config.get('model_type') or '')


def family_of_name(name: str) -> str | None:
    """mmft's type for a family's name, in any case: ``'llama'``, ``'StableLm'``, transformers' or the family's own."""
    wanted, found = name.lower(), families().items()
    ways = (
        ((kind.lower(), kind) for kind in LANGUAGE_MODELS.module_dict),
        ((family.model_type, kind) for kind, family in found),
        ((family.hf_model_type, kind) for kind, family in found),
        ((other, kind) for kind, family in found for other in family.also),
    )
    return next((kind for way in ways for known, kind in way if known == wanted), None)


def family_of_keys(keys: Iterable[str]) -> str | None:
    """mmft's type for tensors of a causal language model, where no config names it; None where names do not tell.

    >>> family_of_keys(['model.layers.0.self_attn.q_proj.weight', 'model.layers.0.mlp.gate_proj.weight'])
    'Llama'
    """
    found = {re.sub(r'\.\d+\.', '.', key) for key in keys}
    marked = [
        (len(family.marks), kind)
        for kind, family in families().items()
        if family.marks and all(any(key.endswith(mark) for key in found) for mark in family.marks)
    ]
    return max(marked)[1] if marked else None


def not_held(where: str, name: Any, known: Iterable[str]) -> CheckpointError:
    """The error for a language model that a layout does not hold.

    Args:
        where: the entry of ``config.json``.
        name: its value.
        known: those that the layout holds.
    """
    experts = any(word in str(name).lower() for word in ('moe', 'gptoss', 'gpt_oss'))
    return CheckpointError(
        f'{where} = {name!r}' + (', a mixture of experts' if experts else ''),
        expected=f'one of {sorted(known)}',
        fix='take a dense size, such as InternVL3.5-8B, -14B or -38B' if experts else '',
    )


def has_head(kind: str, keys: Iterable[str]) -> bool:
    """Whether one of these tensors is an output head, by transformers' name of it or by the family's own.

    Args:
        kind: mmft's type.
    """
    family = families().get(kind)
    heads = ('lm_head.weight', *([f'language_model.{family.head}.weight'] if family else []))
    return any(key.endswith(heads) for key in keys)


def is_tied(config: Mapping[str, Any], kind: str, keys: Collection[str]) -> bool:
    """Whether the head is the embedding: as ``config.json`` says, else as the family has it where no file holds a head.

    transformers 5 reads the tie at the top and writes its default there; older versions knew ``text_config``'s only,
    and both leave out what is a default.

    Args:
        config: of an HF-native directory.
        kind: mmft's type.
        keys: names of the directory's tensors; none where only its config is read.
    """
    declared = [at.get('tie_word_embeddings') for at in (config['text_config'], config)]
    if any(value is not None for value in declared) or not keys or has_head(kind, keys):
        return any(declared)
    return bool(getattr(LANGUAGE_MODELS.get(kind).hf_config({}), 'tie_word_embeddings', False))


def language_model(
    config: Mapping[str, Any], where: str, kind: str | None = None, tie: bool | None = None
) -> dict[str, Any]:
    """The ``llm`` dict for a language model's config.

    Args:
        config: transformers' names, or the family's own; other entries are left out.
        where: for the error.
        kind: mmft's type, where ``config`` does not tell it.
        tie: ``tie_word_embeddings``, where ``config`` is not the one that says it.

    Raises:
        CheckpointError: a family that mmft does not have.
    """
    kind = kind or family_of(config)
    cls = LANGUAGE_MODELS.get(kind)
    if cls is None:
        raise CheckpointError(
            f'{where}: a language model of model_type {config.get("model_type")!r}, architectures '
            f'{config.get("architectures")}',
            expected=f'one of {LANGUAGE_MODELS.names()}',
        )
    known = cls.config_names() if hasattr(cls, 'config_names') else set(config)
    fields = {
        key: value
        for key, value in config.items()
        # A null token id is a choice; left out, a class's own default could lie outside a small vocabulary.
        if key in known - NOT_THE_MODEL - _ELSEWHERE and (value is not None or key.endswith('_token_id'))
    }
    rope = dict(config.get('rope_parameters') or {})
    fields |= {key: rope.pop(key) for key in ('rope_theta', 'partial_rotary_factor') if key in rope}
    if rope.get('rope_type', 'default') != 'default':
        fields['rope_scaling'] = rope
    if tie is not None:
        fields['tie_word_embeddings'] = tie
    return {'type': kind, **fields}


def published_config(kind: str, config: PreTrainedConfig) -> dict[str, Any]:
    """What a family's own ``config.json`` says of a model, token ids and the tie left out: its names, its rope.

    Args:
        kind: mmft's type.
        config: transformers'.
    """
    family = families()[kind]
    own = {theirs: name for name, theirs in family.names.items()}
    given = {name: getattr(config, name, None) for name in family.fields}
    fields = {own.get(name, name): value for name, value in given.items() if value is not None}
    rope = older_rope(config.rope_parameters, family.rope, family.rope_key)
    if rope.get('partial_rotary_factor') == 1.0:  # all channels, of which the original configurations say nothing
        del rope['partial_rotary_factor']
    return {'architectures': [family.architecture], 'model_type': family.model_type, **fields, **rope}


def older_rope(
    parameters: Mapping[str, Any] | None, names: Mapping[str, str] | None = None, key: str = 'type'
) -> dict[str, Any]:
    """``rope_theta``, ``rope_scaling`` and what else stands in ``rope_parameters``, by the names of transformers 4.

    Its configurations check the number of entries.

    Args:
        names: transformers' names of scalings -> those to write.
        key: of the scaling's name.

    >>> older_rope({'rope_type': 'linear', 'factor': 2.0, 'rope_theta': 1e6})
    {'rope_theta': 1000000.0, 'rope_scaling': {'type': 'linear', 'factor': 2.0}}
    """
    rope = dict(parameters or {})
    fields = {name: rope.pop(name) for name in ('rope_theta', 'partial_rotary_factor') if name in rope}
    kind = rope.pop('rope_type', 'default')
    rope.pop('type', None)
    if kind == 'default':
        return {**fields, 'rope_scaling': None}
    only = {'longrope': ('short_factor', 'long_factor'), 'linear': ('factor',), 'dynamic': ('factor',)}.get(kind, rope)
    return {**fields, 'rope_scaling': {key: (names or {}).get(kind, kind), **{name: rope[name] for name in only}}}


def llm_rules(llm: Mapping[str, Any], theirs: str) -> list[Rule]:
    """Names of a language model's tensors in its own directories.

    Args:
        llm: its dict in ``model``.
        theirs: what stands before them on disk.
    """
    heads = llm.get('num_attention_heads')
    shape = {'num_heads': heads, 'num_kv_heads': llm.get('num_key_value_heads') or heads}
    family = families().get(llm['type'])
    return [
        Rule(
            theirs + row.theirs,
            f'llm.lm.{row.ours}' if isinstance(row.ours, str) else tuple(f'llm.lm.{name}' for name in row.ours),
            row.split and partial(row.split, **shape),
            row.join and partial(row.join, **shape),
        )
        for row in (family.tensors if family else AS_COMPUTED)
    ]


def by_class(held: Mapping[str, Family]) -> Iterator[tuple[str, tuple[str, ...], Family]]:
    """(class of transformers, the families that are exported as it, the one whose own it is) of an HF-native layout."""
    for architecture in dict.fromkeys(family.hf_architecture for family in held.values()):
        kinds = tuple(kind for kind, family in held.items() if family.hf_architecture == architecture)
        own = (held[kind] for kind in kinds if held[kind].architecture == architecture)
        yield architecture, kinds, next(own, held[kinds[0]])
