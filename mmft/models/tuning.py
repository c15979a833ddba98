"""What trains: one setting per part, ``frozen``, ``full``, ``lora`` or ``qlora``, and from which layer on.

tune = dict(vision='frozen', projector='full', llm=dict(type='lora', r=128, alpha=256))
tune = dict(vision=dict(type='full', from_layer=12), projector='full', llm='full')
tune = dict(llm=dict(type='lora', r=128, embeddings=True))      # the token table and the output head train whole
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from mmft.checks import is_number, is_whole
from mmft.errors import ConfigError
from mmft.models.buffers import moving_buffers
from mmft.models.lora import inject_lora, is_lora_key
from mmft.models.vlm import VLM
from mmft.words import count_of

__all__ = ['TUNE_TYPES', 'apply_tune', 'check_tune', 'count_values', 'part_of', 'trainable_summary']

TUNE_TYPES = ('frozen', 'full', 'lora', 'qlora')
DEFAULT_TUNE = {'vision': 'frozen', 'projector': 'full', 'llm': 'full'}
_LORA_KEYS = {'r', 'alpha', 'dropout', 'targets', 'dora'}


def check_tune(tune: Mapping[str, Any] | None) -> dict[str, dict[str, Any]]:
    """``tune`` in its long form, every part named.

    Raises:
        ConfigError: all that is wrong with it, at once.

    >>> check_tune({'llm': 'lora'})['llm']
    {'type': 'lora'}
    """
    problems: list[str] = []
    full: dict[str, dict[str, Any]] = {}
    for part in set(tune or {}) - set(DEFAULT_TUNE):
        problems.append(f'tune.{part}: no such part; the parts are {list(DEFAULT_TUNE)}')
    for part, default in DEFAULT_TUNE.items():
        given = (tune or {}).get(part, default)
        spec = dict(given) if isinstance(given, Mapping) else {'type': given}
        kind = spec.get('type')
        allowed = {'type', 'from_layer'} | (_LORA_KEYS if kind in ('lora', 'qlora') else set())
        allowed |= {'embeddings'} if part == 'llm' else set()
        if kind not in TUNE_TYPES:
            problems.append(f'tune.{part}: type {kind!r}; expected one of {TUNE_TYPES}')
        elif unknown := set(spec) - allowed:
            problems.append(f'tune.{part}: {sorted(unknown)} mean nothing with type {kind!r}; known: {sorted(allowed)}')
        elif kind == 'frozen' and 'from_layer' in spec:
            problems.append(f"tune.{part}: 'frozen' with from_layer; use dict(type='full', from_layer=...)")
        elif part == 'projector' and 'from_layer' in spec:
            problems.append('tune.projector: from_layer, but a projector has no layers to count')
        else:
            problems += [f'tune.{part}.{problem}' for problem in _wrong_values(spec)]
        full[part] = spec
    if not problems and all(_is_frozen(spec) for spec in full.values()):
        problems.append('tune: every part is frozen, nothing would train')
    if problems:
        raise ConfigError.gather(problems)
    return full


def _is_frozen(spec: Mapping[str, Any]) -> bool:
    return spec['type'] == 'frozen' and not spec.get('embeddings')


def _wrong_values(spec: Mapping[str, Any]) -> Iterator[str]:
    for key, least in (('r', 1), ('from_layer', 0)):
        value = spec.get(key, least)
        if not is_whole(value, least):
            yield f'{key} = {value!r}; expected a whole number from {least}'
    if not isinstance(spec.get('embeddings', False), bool):
        yield f'embeddings = {spec["embeddings"]!r}; expected True or False'
    dropout, alpha = spec.get('dropout', 0.0), spec.get('alpha')
    if not is_number(dropout, least=0) or dropout >= 1:
        yield f'dropout = {dropout!r}; expected a number from 0 to below 1'
    if alpha is not None and (not is_number(alpha) or alpha <= 0):
        yield f'alpha = {alpha!r}; expected a number above 0'


def part_of(name: str) -> str:
    """The part a parameter belongs to; what merges tiles is a piece of the projector.

    >>> part_of('llm.lm.lm_head.weight'), part_of('merge.image_newline')
    ('llm', 'projector')
    """
    part = name.split('.', 1)[0]
    return 'projector' if part == 'merge' else part


def apply_tune(model: VLM, tune: Mapping[str, Any] | None) -> dict[str, dict[str, Any]]:
    """Freeze, open and adapt the parts of ``model`` in place, after its base weights are loaded.

    Trained weights, and the buffers that move with them, become float32 (16-bit weights would lose updates of a small
    learning rate); frozen ones keep their dtype. From ``from_layer`` on means: blocks N, N+1, ... train; embeddings and
    lower blocks do not. Blocks above the tower's ``select_layer`` never train. With ``embeddings``
    token table and output head of ``llm`` train whatever else does.

    Returns:
        The settings as used, plain types, for the checkpoint.
    """
    used = check_tune(tune)
    for name, spec in used.items():
        part = model.parts[name]
        kind, from_layer = spec['type'], spec.get('from_layer', 0)
        part.requires_grad_(False)
        if from_layer and not 0 <= from_layer < len(part.layers):
            raise ConfigError(
                f'tune.{name}.from_layer = {from_layer}',
                expected=f'0 to {len(part.layers) - 1}: {name} has {count_of(len(part.layers), "layer")}',
                fix='count from 0 at the input',
            )
        if kind == 'full':
            _open(part, from_layer)
        elif kind != 'frozen':
            if kind == 'qlora':
                from mmft.models.quantize import quantize_nf4

                quantize_nf4(part)
            layers = range(from_layer, len(part.layers)) if from_layer else None
            options = {k: v for k, v in spec.items() if k in _LORA_KEYS}
            kept = {key: spec[key] for key in ('embeddings',) if key in spec}
            used[name] = {'type': kind, **inject_lora(part, layers=layers, name=name, **options), **kept}
            for key, parameter in part.named_parameters():
                parameter.requires_grad_(is_lora_key('.' + key))
        if spec.get('embeddings'):
            _open_tables(part)
    model.vision.idle_layers.requires_grad_(False)
    if used['vision']['type'] != 'frozen' and not any(p.requires_grad for p in model.vision.parameters()):
        running = sum(id(layer) not in set(map(id, model.vision.idle_layers)) for layer in model.vision.layers)
        raise ConfigError(
            f'tune.vision.from_layer = {used["vision"].get("from_layer")}: no block from there on runs',
            expected=f'0 to {running - 1}: the features are those of block {running - 1} (select_layer)',
        )
    if model.merge is not None:
        model.merge.requires_grad_(used['projector']['type'] == 'full')
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float32)
    for buffer in moving_buffers(model).values():
        if buffer.is_floating_point():
            buffer.data = buffer.data.to(torch.float32)
    return used


def _open(part: nn.Module, from_layer: int) -> None:
    if not from_layer:
        part.requires_grad_(True)
        return
    for block in part.layers[from_layer:]:
        block.requires_grad_(True)


def _open_tables(llm: nn.Module) -> None:
    if any(is_lora_key(f'.{name}') for table in llm.tables for name, _ in table.named_parameters()):
        raise ConfigError(
            'tune.llm.embeddings with LoRA on the same layer', fix='leave it out of tune.llm.targets: it trains whole'
        )
    for table in llm.tables:
        table.requires_grad_(True)


def trainable_summary(model: VLM) -> dict[str, dict[str, int]]:
    """Parameters per part: ``{'vision': {'total': ..., 'trained': ...}, ...}``."""
    summary = {name: {'total': 0, 'trained': 0} for name in model.parts}
    for name, parameter in model.named_parameters():
        row = summary[part_of(name)]
        row['total'] += count_values(parameter)
        row['trained'] += count_values(parameter) if parameter.requires_grad else 0
    return summary


def count_values(parameter: nn.Parameter) -> int:
    """How many weights a parameter stands for, however it is stored."""
    # An NF4 weight holds two values a byte; its quant_state knows the shape that it stands for.
    if (state := getattr(parameter, 'quant_state', None)) is not None:
        return math.prod(state.shape)
    return getattr(parameter, 'ds_numel', parameter.numel())  # ZeRO-3 leaves it empty
