"""LoRA directories of LLaVA's and TinyLLaVA Factory's own code, merged while they are read.

Such a directory holds ``adapter_config.json``, ``adapter_model.{safetensors,bin}``, ``non_lora_trainables.bin`` (what
trained in full: the projector) and ``config.json``; the base is elsewhere and named by the adapter. TinyLLaVA
Factory's holds its base itself, in the folders of ``stages.py``.

Sources: ``llava/model/builder.py`` and ``llava/train/train.py`` of haotian-liu/LLaVA; the formats are peft's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmft.checkpoint.directory import ADAPTER_CONFIG, ModelDirectory
from mmft.checkpoint.source import Joined, TensorFiles, TensorSource, read_json
from mmft.checkpoint.stages import folder_tensors
from mmft.errors import CheckpointError
from mmft.models.lora import ADAPTER, lora_delta

__all__ = ['Merged', 'adapter_base', 'merged_adapter']

TRAINABLES = 'non_lora_trainables.bin'
_FILES = ('adapter_model.safetensors', 'adapter_model.bin')
_PREFIX = 'base_model.model.'
_LORA = re.compile(r'(.+)\.(lora_A|lora_B|lora_magnitude_vector)(?:\.default)?(?:\.weight)?')


@dataclass(frozen=True)
class Adapter:
    """LoRA of one layer: the names of its tensors in the adapter's file, and its scale ``alpha / r``."""

    names: dict[str, str]
    alpha: float
    r: int


class Merged(TensorSource):
    """Tensors with the adapters of some of them added.

    Args:
        base: all tensors.
        source: the adapters' file.
        adapters: name of a tensor of ``base`` -> its adapter.
    """

    def __init__(self, base: TensorSource, source: TensorSource, adapters: Mapping[str, Adapter]) -> None:
        self._base, self._source, self._adapters = base, source, dict(adapters)

    def __getitem__(self, key: str) -> Tensor:
        value, adapter = self._base[key], self._adapters.get(key)
        if adapter is None:
            return value
        tensors = {f'{key}.{kind}.{ADAPTER}.weight': self._source[name] for kind, name in adapter.names.items()}
        return lora_delta(key, value, tensors, adapter.alpha, adapter.r)

    def __iter__(self) -> Iterator[str]:
        return iter(self._base)

    def __len__(self) -> int:
        return len(self._base)

    def origin(self, key: str) -> tuple[Path, str] | None:
        return None if key in self._adapters else self._base.origin(key)

    def meta(self, key: str) -> tuple[torch.dtype, tuple[int, ...]]:
        return self._base.meta(key)

    def probe(self, key: str) -> tuple[tuple[int, ...], Tensor]:
        """Of a merged tensor: the base's values and the adapter's, which tell it as well and cost no merging."""
        shape, values = self._base.probe(key)
        if (adapter := self._adapters.get(key)) is None:
            return shape, values
        more = [self._source.probe(name)[1] for name in adapter.names.values()]
        return shape, torch.cat([piece.float() for piece in (values, *more)])


def adapter_base(directory: ModelDirectory) -> ModelDirectory:
    """The directory that an adapter directory was trained on.

    Raises:
        CheckpointError: it is not where the adapter says; tells where it was looked for.
    """
    name = read_json(directory.path / ADAPTER_CONFIG).get('base_model_name_or_path')
    if not name and directory.base is None:
        raise CheckpointError(
            f'{directory.path / ADAPTER_CONFIG}: base_model_name_or_path is {name!r}',
            expected='the model that the adapter was trained on',
            fix='pass its directory: mmft.load(path, base=...)',
        )
    path = directory.find(
        str(name),
        directory.base,
        'the base it was trained on',
        'put the base beside it under this name, or pass its directory: mmft.load(path, base=...)',
    )
    return ModelDirectory(path, vision=directory.vision)


def merged_adapter(directory: ModelDirectory) -> TensorSource:
    """The tensors of the model that an adapter directory stands for.

    Raises:
        CheckpointError: no base, or an adapter that fits it nowhere.
    """
    settings = read_json(directory.path / ADAPTER_CONFIG)
    where = directory.path
    kind = str(settings.get('peft_type', 'LORA')).upper()
    if settings.get('fan_in_fan_out') or kind != 'LORA':
        what = f'{kind} adapter' + (' of transposed layers (fan_in_fan_out)' if settings.get('fan_in_fan_out') else '')
        raise CheckpointError(
            f'{where}: {what}',
            expected='LoRA on linear layers',
            fix="merge it with peft's merge_and_unload, and load what that saves",
        )
    file = next((where / name for name in _FILES if (where / name).is_file()), None)
    if file is None:
        raise CheckpointError(f'{where} holds no {" or ".join(_FILES)}', fix='download the adapter')
    base = directory.base_directory.tensors if directory.base_directory else folder_tensors(where)
    source = TensorFiles([file])
    places = {key: (base, key) for key in base}
    kinds = [directory.config.get(name) for name in ('mm_projector_type', 'connector_type')]
    if (where / TRAINABLES).is_file():
        trained = TensorFiles([where / TRAINABLES])
        places |= {name: (trained, key) for key, name in trainable_names(trained).items()}
    elif 'identity' not in kinds and not any('mm_projector.' in key or '_connector.' in key for key in places):
        raise CheckpointError(
            f'{where} holds no {TRAINABLES}, and its base no projector', fix='copy that file of the run into it'
        )
    layers: dict[str, dict[str, str]] = {}
    for key in source:
        if match := _LORA.fullmatch(plain_name(key)):
            layers.setdefault(f'{match[1]}.weight', {})[match[2]] = key
        else:
            places[plain_name(key)] = (source, key)
    lost = sorted(set(layers) - set(places))
    if lost:
        raise CheckpointError(
            f'{where}: LoRA of {len(lost)} layers that its base has not, such as {lost[:3]}',
            expected='the base it was trained on, under the names of that base',
            fix='pass that base: mmft.load(path, base=...)',
        )
    joined = Joined(places)
    adapters = {
        name: _adapter(name, names, settings, source, joined.meta(name)[1], where) for name, names in layers.items()
    }
    return Merged(joined, source, adapters)


def plain_name(key: str) -> str:
    """A name inside a PEFT model -> the name in the model itself.

    >>> plain_name('base_model.model.model.mm_projector.0.weight')
    'model.mm_projector.0.weight'
    """
    key = key.removeprefix(_PREFIX)
    return (key.removeprefix('model.') if key.startswith('model.model.') else key).replace('.modules_to_save.', '.')


def trainable_names(keys: Iterable[str]) -> dict[str, str]:
    """Names in ``non_lora_trainables.bin`` -> names in the model itself, by the two rules of ``builder.py``.

    >>> trainable_names(['base_model.model.model.mm_projector.weight', 'base_model.model.lm_head.weight']).values()
    dict_values(['model.mm_projector.weight', 'lm_head.weight'])
    >>> trainable_names(['base_model.model.mm_projector.weight']).values()
    dict_values(['model.mm_projector.weight'])
    """
    names = {key: key.removeprefix('base_model.') for key in keys}
    if any(name.startswith('model.model.') for name in names.values()):
        names = {key: name.removeprefix('model.') for key, name in names.items()}
    return {key: name.replace('.modules_to_save.', '.') for key, name in names.items()}


def _adapter(
    name: str,
    names: dict[str, str],
    settings: Mapping[str, Any],
    source: TensorSource,
    shape: tuple[int, ...],
    where: Path,
) -> Adapter:
    kinds = {'lora_A', 'lora_B', *(('lora_magnitude_vector',) if settings.get('use_dora') else ())}
    if set(names) != kinds:
        raise CheckpointError(f'{where}: {name} has {sorted(names)}', expected=f'{sorted(kinds)}')
    module = name.removesuffix('.weight')
    down, up = (source.meta(names[kind])[1] for kind in ('lora_A', 'lora_B'))
    rank = down[0]
    if (*up, *down) != (shape[0], rank, rank, shape[-1]):
        raise CheckpointError(
            f'{where}: {name} is {shape} in the base, its lora_A {down}, its lora_B {up}',
            expected=f'({rank}, {shape[-1]}) and ({shape[0]}, {rank})',
            fix='pass the base that it was trained on: mmft.load(path, base=...)',
        )
    alpha = float(_of_pattern(settings.get('alpha_pattern'), module, settings.get('lora_alpha', rank)))
    # Rank-stabilised LoRA (arXiv:2312.03732) scales by alpha / sqrt(r).
    return Adapter(names, alpha * math.sqrt(rank) if settings.get('use_rslora') else alpha, rank)


def _of_pattern(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    for pattern, value in (patterns or {}).items():
        if re.fullmatch(rf'(?:.*\.)?{pattern}', module):
            return value
    return default
