"""Adapter directories of PEFT, read over the weights that they were trained on and merged on the way.

ms-swift, LLaMA-Factory, TRL and ``--adapter`` of mmft's own export write ``adapter_config.json`` and
``adapter_model.{safetensors,bin}``; LLaVA's and TinyLLaVA Factory's code also ``non_lora_trainables.bin`` (what trained
in full: the projector) and ``config.json``. The base is elsewhere and named by the adapter; TinyLLaVA Factory's lies in
the folders of ``partial.py``. XTuner's code writes one such directory for each part.

Sources: ``peft/tuners/lora`` and ``peft/utils/save_and_load.py``; ``llava/model/builder.py`` and
``llava/train/train.py`` of haotian-liu/LLaVA.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmft.errors import CheckpointError
from mmft.file_names import ADAPTER_CONFIG
from mmft.files.tensor_names import UNTRAINED, file_names, unwrapped, unwrapped_tensors
from mmft.files.tensors import Joined, TensorFiles, TensorSource
from mmft.json_files import read_json
from mmft.models.lora import ADAPTER, lora_delta
from mmft.words import clipped, count_of

__all__ = ['AdapterLayer', 'MergedTensors', 'lora_layers', 'merged_adapter']

TRAINABLES = 'non_lora_trainables.bin'
_FILES = ('adapter_model.safetensors', 'adapter_model.bin')
_LORA = re.compile(r'(.+)\.(lora_(?:embedding_)?[AB]|lora_magnitude_vector)(?:\.default)?(?:\.weight)?')
_PROJECTORS = ('mm_projector.', '_connector.')
"""What stands in the names of projectors that a run adds to a bare language model."""
_BASE = 'pass the base that it was trained on: mmft.load(path, base=...)'


@dataclass(frozen=True)
class AdapterLayer:
    """LoRA of one layer.

    Attributes:
        names: ``lora_A`` and so on -> name in the adapter's file.
        scale: of its product: ``alpha / r``.
    """

    names: dict[str, str]
    scale: float

    def merged(self, weight: Tensor, source: Mapping[str, Tensor]) -> Tensor:
        """(out,in) or, of an embedding, (V,D): the weight with the adapter of ``source``, rounded once."""
        tensors = {kind: source[name] for kind, name in self.names.items()}
        if 'lora_embedding_A' in tensors:  # (r,V) and (D,r)
            tensors = {'lora_A': tensors['lora_embedding_B'].T, 'lora_B': tensors['lora_embedding_A'].T}
        return lora_delta('', weight, {f'.{kind}.{ADAPTER}.weight': t for kind, t in tensors.items()}, self.scale, 1)


class MergedTensors(TensorSource):
    """Tensors with the adapters of some of them added.

    Args:
        base: all tensors.
        source: the adapters' file.
        adapters: name of a tensor of ``base`` -> its adapter.
        replaced: names of tensors that the run trained in full.
    """

    def __init__(
        self,
        base: TensorSource,
        source: TensorSource,
        adapters: Mapping[str, AdapterLayer],
        replaced: frozenset[str] = frozenset(),
    ) -> None:
        self._base, self._source, self._adapters = base, source, dict(adapters)
        self.changed = frozenset(adapters) | replaced

    def __getitem__(self, key: str) -> Tensor:
        value, adapter = self._base[key], self._adapters.get(key)
        return value if adapter is None else adapter.merged(value, self._source)

    def __iter__(self) -> Iterator[str]:
        return iter(self._base)

    def __len__(self) -> int:
        return len(self._base)

    def origin(self, key: str) -> tuple[Path, str] | None:
        return None if key in self._adapters else self._base.origin(key)

    def meta(self, key: str) -> tuple[torch.dtype, tuple[int, ...]]:
        return self._base.meta(key)

    def probe(self, key: str) -> tuple[tuple[int, ...], Tensor]:
        """Of a merged tensor: the base's values and the adapter's, which identify it as well, without merging."""
        shape, values = self._base.probe(key)
        if (adapter := self._adapters.get(key)) is None:
            return shape, values
        more = [self._source.probe(name)[1] for name in adapter.names.values()]
        return shape, torch.cat([piece.float() for piece in (values, *more)])


def merged_adapter(where: Path, config: Mapping[str, Any], base: TensorSource, base_path: Path) -> MergedTensors:
    """The tensors of the model that an adapter directory stands for.

    Args:
        where: the directory.
        config: its ``config.json``.
        base: tensors of the model that it was trained on.
        base_path: where they lie, for the message.

    Raises:
        CheckpointError: no base, or tensors of the adapter that fit it nowhere: names them.
    """
    settings = _settings(where)
    file = next((where / name for name in _FILES if (where / name).is_file()), None)
    if file is None:
        raise CheckpointError(f'{where} holds no {" or ".join(_FILES)}', fix='download the adapter')
    places = {key: (base, key) for key in base}
    replaced: dict[str, tuple[TensorSource, str]] = {}
    if (where / TRAINABLES).is_file():
        trained = unwrapped_tensors(TensorFiles([where / TRAINABLES]), where / TRAINABLES)
        replaced |= {trainable_name(key): (trained, key) for key in trained}
    elif _wants_projector(config) and not any(at in key for key in places for at in _PROJECTORS):
        raise CheckpointError(
            f'{where} holds no {TRAINABLES}, and its base no projector',
            expected="the projector that trained with the adapter; LLaVA's code writes it when the run ends, not into "
            'checkpoint-N/',
            fix='copy that file of the run into it, or pass a base with a projector',
        )
    source = TensorFiles([file])
    layers, others = lora_layers(source)
    lost: list[str] = []
    for name, key in others.items():
        found = file_names(name, places)
        if found or any(at in name for at in _PROJECTORS):
            replaced[_only(name, found, where) if found else trainable_name(name)] = (source, key)
        else:
            lost.append(name)
    joined, adapters = Joined({**places, **replaced}), {}
    for module, names in layers.items():
        if found := file_names(f'{module}.weight', joined):
            key = _only(module, found, where)
            adapters[key] = _adapter(module, names, settings, source, joined.meta(key)[1], where)
        else:
            lost.append(f'LoRA of {module}')
    if lost:
        raise CheckpointError(
            f'{where}: {count_of(len(lost), "tensor")} of the adapter found no place in its base, such as '
            f'{", ".join(sorted(lost)[:3])}',
            expected='the base it was trained on, under the names of that base'
            + (f' ({base_path} was taken)' if base_path != where else ''),
            fix=_BASE,
        )
    return MergedTensors(joined, source, adapters, frozenset(replaced))


def lora_layers(keys: Mapping[str, Tensor]) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """The names in an adapter's file: module -> kind -> name there; and of what trained in full, name -> name there."""
    layers: dict[str, dict[str, str]] = {}
    others: dict[str, str] = {}
    for key in keys:
        name = unwrapped(key)
        if match := _LORA.fullmatch(name):
            layers.setdefault(match[1], {})[match[2]] = key
        elif UNTRAINED not in key:
            others[name] = key
    return layers, others


def trainable_name(name: str) -> str:
    """A name in ``non_lora_trainables.bin`` -> the name in the model itself: runs wrap the projector once or twice.

    >>> trainable_name('mm_projector.0.weight')
    'model.mm_projector.0.weight'
    """
    return f'model.{name}' if name.startswith('mm_projector.') else name


def _settings(where: Path) -> dict[str, Any]:
    settings = read_json(where / ADAPTER_CONFIG)
    kind = str(settings.get('peft_type') or 'LORA').upper()
    if settings.get('fan_in_fan_out') or kind != 'LORA':
        what = f'{kind} adapter' + (' of transposed layers (fan_in_fan_out)' if settings.get('fan_in_fan_out') else '')
        raise CheckpointError(
            f'{where}: {clipped(what)}',
            expected='LoRA on linear layers',
            fix="merge it with peft's merge_and_unload, and load what that saves",
        )
    return settings


def _wants_projector(config: Mapping[str, Any]) -> bool:
    """Whether ``config`` (a ``config.json``) is of a LLaVA whose code adds a projector to a language model."""
    kinds = [config.get(name) for name in ('mm_projector_type', 'connector_type')]
    return 'identity' not in kinds and ('mm_vision_tower' in config or any(kinds))


def _only(name: str, found: list[str], where: Path) -> str:
    if len(found) > 1:
        raise CheckpointError(f'{where}: {name} may be {" or ".join(found)} of its base', fix=_BASE)
    return found[0]


def _adapter(
    module: str,
    names: dict[str, str],
    settings: Mapping[str, Any],
    source: TensorSource,
    shape: tuple[int, ...],
    where: Path,
) -> AdapterLayer:
    of = 'lora_embedding_' if 'lora_embedding_A' in names else 'lora_'
    kinds = {f'{of}A', f'{of}B', *(('lora_magnitude_vector',) if settings.get('use_dora') else ())}
    if set(names) != kinds:
        raise CheckpointError(f'{where}: {module} has {sorted(names)}', expected=f'{sorted(kinds)}')
    down, up = (source.meta(names[of + end])[1] for end in 'AB')
    rank, wanted = down[0], (shape[0], shape[-1]) if of == 'lora_' else (shape[-1], shape[0])
    if (*up, *down) != (wanted[0], rank, rank, wanted[1]) or len(shape) != 2 or not rank:
        raise CheckpointError(
            f'{where}: {module}.weight is {shape} in the base, its {of}A {down}, its {of}B {up}',
            expected=f'({rank}, {wanted[1]}) and ({wanted[0]}, {rank})',
            fix=_BASE,
        )
    alpha = _of_pattern(settings.get('alpha_pattern'), module, settings.get('lora_alpha', rank), where)
    # Rank-stabilised LoRA (arXiv:2312.03732) scales by alpha / sqrt(r).
    return AdapterLayer(names, alpha / (math.sqrt(rank) if settings.get('use_rslora') else rank))


def _of_pattern(patterns: Any, module: str, default: Any, where: Path) -> float:
    """The value that the first matching pattern of ``adapter_config.json`` names."""
    try:
        for pattern, value in dict(patterns or {}).items():
            if re.fullmatch(rf'(?:.*\.)?(?:{pattern.removeprefix("^")})', module):
                return float(value)
        return float(default)
    except (TypeError, ValueError, AttributeError, re.error) as error:
        raise CheckpointError(
            f'{where / ADAPTER_CONFIG}: lora_alpha {clipped(repr(default))}, alpha_pattern {clipped(repr(patterns))}',
            expected='numbers; of alpha_pattern, by regular expressions',
            fix='take the file that was saved with the adapter',
        ) from error
