"""Language models inside directories: which family a config describes, in the words that mmft's configs use."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from mmft.errors import CheckpointError
from mmft.layouts.architectures import ARCHITECTURES, LLM_TYPES
from mmft.registry import LANGUAGE_MODELS

__all__ = ['family_of', 'family_of_keys', 'is_tied', 'language_model', 'language_models']

HEADS = ('lm_head.weight', 'language_model.output.weight')
"""How the names of output heads end."""

_NOT_THE_MODEL = {
    'architectures', 'model_type', 'type', 'transformers_version', 'torch_dtype', 'dtype', '_name_or_path', 'use_cache',
    'chunk_size_feed_forward', 'id2label', 'label2id', 'is_encoder_decoder', 'output_attentions', 'rope_parameters',
    'output_hidden_states', 'problem_type', 'return_dict', 'attn_implementation',
}  # fmt: skip


def language_models() -> dict[str, Any]:
    """Every registered language model by its type's name."""
    LANGUAGE_MODELS.import_from_location()
    return dict(LANGUAGE_MODELS.module_dict)


def family_of(config: Mapping[str, Any]) -> str | None:
    """mmft's type for a language model's config: by ``architectures``, else by ``model_type``; None if unknown.

    >>> family_of({'model_type': 'qwen2'})
    'Qwen2'
    """
    names = language_models()
    for architecture in config.get('architectures') or []:
        if LLM_TYPES.get(architecture) in names:
            return LLM_TYPES[architecture]
    return family_of_name(config.get('model_type') or '')


def family_of_name(name: str) -> str | None:
    """mmft's type for a family's name, in any case: ``'llama'``, ``'StableLm'``, transformers' or the family's own."""
    names, wanted = language_models(), name.lower()
    own = {kind.lower(): kind for kind in names}
    published = {model_type: kind for kind, (_, model_type) in ARCHITECTURES.items() if kind in names}
    through = {cls.model_type: kind for kind, cls in reversed(names.items()) if hasattr(cls, 'model_type')}
    return own.get(wanted) or published.get(wanted) or through.get(wanted) or ('Qwen2' if wanted == 'qwen' else None)


def family_of_keys(keys: Iterable[str]) -> str | None:
    """mmft's type for tensors of a causal language model, where no config names it; None where names do not tell.

    >>> family_of_keys(['model.layers.0.self_attn.q_proj.weight', 'model.layers.0.mlp.gate_proj.weight'])
    'Llama'
    """
    found = {re.sub(r'\.\d+\.', '.', key) for key in keys}
    marks = (
        ('feed_forward.w1.weight', 'InternLM2'),
        ('mlp.gate_up_proj.weight', 'Phi3'),
        ('mlp.fc1.weight', 'Phi'),
        ('input_layernorm.bias', 'StableLM'),
        ('self_attn.q_proj.bias', 'Qwen2'),
        ('mlp.gate_proj.weight', 'Llama'),
    )
    return next((kind for mark, kind in marks if any(key.endswith(mark) for key in found)), None)


def is_tied(said: bool | None, kind: str, keys: Collection[str]) -> bool:
    """Whether the head is the embedding: as ``config.json`` says, else as the family has it where no file holds a head.

    Args:
        said: ``tie_word_embeddings``; None where a config leaves it out, as transformers does with defaults.
        kind: mmft's type.
        keys: names of the directory's tensors; none where only its config is read.
    """
    if said is not None or not keys or any(key.endswith(HEADS) for key in keys):
        return bool(said)
    return bool(getattr(language_models()[kind].hf_config({}), 'tie_word_embeddings', False))


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
    if kind not in language_models():
        raise CheckpointError(
            f'{where}: a language model of model_type {config.get("model_type")!r}, architectures '
            f'{config.get("architectures")}',
            expected=f'one of {sorted(language_models())}',
        )
    cls = language_models()[kind]
    known = cls.config_names() if hasattr(cls, 'config_names') else set(config)
    fields = {
        key: value
        for key, value in config.items()
        # A null token id is a choice; left out, a class's own default could lie outside a small vocabulary.
        if key in known - _NOT_THE_MODEL and (value is not None or key.endswith('_token_id'))
    }
    rope = dict(config.get('rope_parameters') or {})
    fields |= {key: rope.pop(key) for key in ('rope_theta', 'partial_rotary_factor') if key in rope}
    if rope.get('rope_type', 'default') != 'default':
        fields['rope_scaling'] = rope
    if tie is not None:
        fields['tie_word_embeddings'] = tie
    return {'type': kind, **fields}
