"""Whether a ``model`` dict describes the model of a directory, in what tensor shapes do not show."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from mmft.checks import is_number
from mmft.errors import ConfigError
from mmft.registry import LANGUAGE_MODELS, PROJECTORS, VISION_TOWERS

__all__ = ['check_same', 'same_value']

# Where weights do not show a difference: a head count, a rope base, a select layer. Everything else shows in shapes.
_SILENT = {
    'vision': ('num_attention_heads', 'norm_type', 'layer_norm_eps', 'select_layer', 'patch_size', 'qk_normalization',
               'select_feature', 'drop_first', 'hidden_act', 'model_name'),
    'projector': ('scale', 'version', 'act', 'num_heads', 'num_attention_heads', 'query_norm', 'hidden_act', 'top_k'),
    'llm': ('num_attention_heads', 'num_key_value_heads', 'rope_theta', 'rope_scaling', 'rms_norm_eps', 'hidden_act',
            'max_position_embeddings'),  # and what a family has beyond these
}  # fmt: skip
_FREE_OF_LENGTH = ('default', 'linear', None)
"""Rope scalings that do not depend on ``max_position_embeddings``, which may then differ."""

_REGISTRIES = {'vision': VISION_TOWERS, 'projector': PROJECTORS, 'llm': LANGUAGE_MODELS}


def check_same(config: Mapping[str, Any], stored: Mapping[str, Any], where: Any) -> None:
    """Raise ``ConfigError`` where a ``model`` dict differs from a directory's in what tensor shapes do not show.

    Args:
        where: the directory, for the message.
    """
    problems = []
    for part in _SILENT:
        problems += _differences(part, config[part], stored[part], f'model.{part}', where)
    merges = [_settings_of(other.get('merge')) for other in (config, stored)]
    if not same_value(*merges):
        problems.append(f'model.merge = {merges[0]!r}, but {where} says {merges[1]!r}')
    if problems:
        raise ConfigError.gather(problems)


def same_value(one: Any, other: Any) -> bool:
    """Whether two settings are equal. Numbers are where they are the same float32: files hold 1e-5 as that, too.

    >>> same_value(1e-5, 9.999999747378752e-06), same_value([1, 2], (1, 2.0)), same_value(1e-5, 1.1e-5)
    (True, True, False)
    """
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same_value(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(same_value, one, other))
    if is_number(one) and is_number(other) and float in (type(one), type(other)):
        return one == other or bool(torch.tensor(float(one)) == torch.tensor(float(other)))
    return one == other


def _settings_of(merge: Mapping[str, Any] | None) -> dict[str, Any] | None:
    default = {'type': 'AnyResMerge', 'unpad': True, 'newline': True, 'shrink_to': None}
    return {**default, **merge} if merge else None


def _differences(part: str, config: Any, stored: Any, name: str, where: Any) -> Iterator[str]:
    if _model_of(part, config) != _model_of(part, stored):
        yield f'{name}.type = {config["type"]!r}, but {where} holds {stored["type"]!r}'
        return
    towers = [list(other.get('towers') or []) for other in (config, stored)]
    if towers[0]:
        for i, (mine, other) in enumerate(zip(*towers, strict=True)):
            yield from _differences(part, mine, other, f'{name}.towers[{i}]', where)
        return
    own, theirs = _settings(part, config), _settings(part, stored)
    for key in _silent(part, config):
        if key in own and key in theirs and not same_value(_comparable(own[key]), _comparable(theirs[key])):
            if key == 'max_position_embeddings' and _rope_kind(own) in _FREE_OF_LENGTH:
                continue
            yield f'{name}.{key} = {own[key]!r}, but {where} says {theirs[key]!r}'


def _silent(part: str, config: Mapping[str, Any]) -> tuple[str, ...]:
    family = getattr(_REGISTRIES[part].get(config['type']), 'family', None)
    return (*_SILENT[part], *(family.silent if family else ()))


def _model_of(part: str, config: Mapping[str, Any]) -> str:
    """What tells two types apart: language models that one class of transformers computes are one model here."""
    kind = _REGISTRIES[part].get(config['type'])
    if family := getattr(kind, 'family', None):
        return family.hf_model_type
    return getattr(kind, 'model_type', None) or config['type']


def _settings(part: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The ``_SILENT`` settings of a part, with the defaults of its class for what its config leaves out."""
    kind = _REGISTRIES[part].get(config['type'])
    if kind is None:
        return dict(config)
    if not hasattr(kind, 'hf_config'):
        defaults = {name: parameter.default for name, parameter in inspect.signature(kind).parameters.items()}
        return {**_hf_defaults(kind), **defaults, **config}
    fields = {key: value for key, value in config.items() if key not in ('type', 'attn_implementation')}
    resolved = kind.hf_config(fields)
    rope = dict(resolved.rope_parameters)
    own = {key: getattr(resolved, key) for key in _silent(part, config) if hasattr(resolved, key)}
    return {**own, 'rope_theta': rope.get('rope_theta'), 'rope_scaling': rope}


def _hf_defaults(kind: Any) -> dict[str, Any]:
    """transformers' defaults of a tower that is one of its models."""
    if not hasattr(kind, 'model_type'):
        return {}
    from transformers import AutoConfig

    return AutoConfig.for_model(kind.model_type).to_dict()


def _rope_kind(settings: Mapping[str, Any]) -> str | None:
    return _comparable(settings['rope_scaling'])['type'] if settings.get('rope_scaling') else None


def _comparable(value: Any) -> Any:
    """A rope scaling as names and numbers: transformers' spellings of the same thing are equal."""
    if not isinstance(value, Mapping):
        return value
    kind = value.get('rope_type', value.get('type'))
    numbers = {key: value[key] for key in ('factor', 'short_factor', 'long_factor') if value.get(key) is not None}
    return {'type': 'longrope' if kind == 'su' else kind, **numbers}
