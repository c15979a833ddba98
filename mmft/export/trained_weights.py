"""The trained model's weights, one tensor at a time: a base, a checkpoint over it, adapters merged.

Names are mmft's. Adapters are merged into the base's own weights, also where training saw them quantised (QLoRA): the
4-bit copies exist in memory only.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mmft.checkpoint.idle import idle_and_absent
from mmft.errors import CheckpointError
from mmft.export.inputs import Base, TrainingCheckpoint
from mmft.export.lazy_tensors import ComputedTensor, StoredTensor
from mmft.layouts import Step
from mmft.models.lora import ADAPTER, add_lora_, is_lora_key
from mmft.models.tuning import part_of
from mmft.words import count_of

__all__ = ['AdapterMerger', 'TrainedLora', 'TrainedWeights', 'join_rows']

# Rows (and, of narrow tensors, values) handled at a time: small enough for the cache, large enough for the matmul.
_ROWS, _VALUES = 256, 1 << 19
_LORA_A = re.compile(rf'(.+)\.lora_A\.{ADAPTER}\.weight')


@dataclass(frozen=True)
class TrainedLora:
    """LoRA of one layer, still on disk: ``{module}.lora_A.default.weight`` and so on."""

    module: str
    tensors: dict[str, StoredTensor]
    r: int
    alpha: float
    dora: bool


@dataclass
class TrainedWeights:
    """Every tensor of the trained model under mmft's names.

    Args:
        shapes: of all parameters the model has, one per tied group, by name.
        base: None where training began with random weights: then the checkpoint holds everything. A base of parts
            leaves the rest to the checkpoint.
        checkpoint: None for the base as it is.

    Raises:
        CheckpointError: unknown tensors, or missing ones.
    """

    shapes: Mapping[str, tuple[int, ...]]
    base: Base | None
    checkpoint: TrainingCheckpoint | None
    adapters: dict[str, TrainedLora] = field(init=False)
    _steps: dict[str, Step] = field(init=False, default_factory=dict)
    _trained: dict[str, StoredTensor] = field(init=False, default_factory=dict)
    _idle: set[str] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        if self.base is not None:
            self._steps = {name: step for step in self.base.layout.to_ours(self.base.stored) for name in step.outputs}
        state = self.checkpoint.state if self.checkpoint is not None else {}
        tune = self.checkpoint.meta['tune'] if self.checkpoint is not None else {}
        self.adapters = _adapters(state, tune)
        self._trained = {name: stored for name, stored in state.items() if not is_lora_key(name)}
        if self.base is not None:
            self._idle = idle_and_absent(self.base.layout, set(self.shapes) - set(self._trained) - set(self._steps))
        self._check(set(self.shapes))

    def _check(self, names: set[str]) -> None:
        where = self.checkpoint.path if self.checkpoint is not None else self.base.where
        unknown = sorted((set(self._trained) | {f'{module}.weight' for module in self.adapters}) - names)
        if unknown:
            raise CheckpointError(
                f'{where} holds {count_of(len(unknown), "tensor")} unknown to the config, such as {unknown[:4]}',
                expected='the model that was trained',
                fix='take the config from the work_dir of the checkpoint',
            )
        absent = sorted(name for name in names - set(self._trained) - set(self._steps) if not self._is_zero(name))
        if absent:
            raise CheckpointError(
                f'{count_of(len(absent), "tensor")} neither in {where} nor in a base, such as {absent[:4]}',
                expected='a base (pretrained), or a checkpoint in which every part was trained in full'
                if self.base is None
                else f'all tensors of the model in {self.base.where}',
                fix='randomly initialised frozen weights are in no file: train all parts, or start from a base',
            )

    def without_adapters(self) -> TrainedWeights:
        """The weights under the adapters: the base's; the checkpoint's where there is no base for them."""
        plain = copy(self)
        plain.adapters = {}
        plain._trained = {name: stored for name, stored in self._trained.items() if name not in self._steps}
        return plain

    def is_trained(self, name: str) -> bool:
        """Whether the checkpoint holds the tensor itself: trained, or initialised with the run; not an adapter."""
        return name in self._trained

    def _is_zero(self, name: str) -> bool:
        """Whether the base leaves the tensor out because it is zero, or because nothing reads it."""
        left_out = name not in self._trained and name not in self._steps
        return left_out and self.base is not None and (name in self._idle or self.base.layout.may_be_absent(name))

    def is_changed(self, name: str) -> bool:
        """Whether training changed this tensor."""
        return self.is_trained(name) or name.removesuffix('.weight') in self.adapters

    def stored(self, name: str) -> StoredTensor | ComputedTensor | None:
        """Where the tensor lies in a file as it is, if it does."""
        if name.removesuffix('.weight') in self.adapters or self._is_zero(name):
            return None
        return self._trained.get(name) or self._plain_base(name)

    def dtype(self, name: str) -> torch.dtype:
        """dtype of the base's tensor, or of the trained one where there is no base."""
        if name in self._steps:
            return self.base.stored[self._steps[name].inputs[0]].dtype
        return self.base.main_dtype() if self._is_zero(name) else self._trained[name].dtype

    def get(self, name: str, dtype: torch.dtype | None = None, opened: dict[str, Tensor] | None = None) -> Tensor:
        """The tensor, rounded once, to ``dtype`` (None: ``self.dtype(name)``).

        Args:
            opened: where the other tensors of a packed one wait for their turn; the caller keeps it from call to call.
        """
        dtype = dtype or self.dtype(name)
        return join_rows(self.blocks(name, dtype, opened), self.shapes[name], dtype)

    def blocks(
        self, name: str, dtype: torch.dtype | None = None, opened: dict[str, Tensor] | None = None
    ) -> Iterator[Tensor]:
        """``get``, a block of rows at a time: only that is in memory, where the file allows it.

        A block is good until the next one is asked for, which takes its memory: fresh memory for each would cost a
        third of the time.
        """
        dtype = dtype or self.dtype(name)
        if self._is_zero(name):
            yield torch.zeros(self.shapes[name], dtype=dtype)
            return
        adapter = self.adapters.get(name.removesuffix('.weight'))
        source = self._trained.get(name) or self._plain_base(name) or self._of_base(name, opened)
        if not isinstance(source, Tensor) and (len(source.shape) < 2 or not source.in_order):
            source = source.read()
        if len(source.shape) < 2:
            yield source.to(dtype)
            return
        merge = None if adapter is None else AdapterMerger(adapter, tuple(source.shape))
        step = min(source.shape[0], max(_ROWS, _VALUES // max(1, math.prod(source.shape[1:]))))
        memory: dict[torch.dtype, Tensor] = {}  # what is read, merged and rounded; where two are of one dtype, one
        for start in range(0, source.shape[0], max(1, step)):
            stop = start + step
            if isinstance(source, Tensor):
                rows = source[start:stop]
            else:
                rows = source.rows(start, stop, _buffer(memory, source.dtype, step, source.shape))
            if merge is not None:
                rows = merge(_as(rows, torch.float32, memory, step, keep=isinstance(source, Tensor)), start)
            yield _as(rows, dtype, memory, step)

    def _plain_base(self, name: str) -> StoredTensor | ComputedTensor | None:
        step = self._steps[name]
        return self.base.stored[step.inputs[0]] if step.convert is None else None

    def _of_base(self, name: str, opened: dict[str, Tensor] | None) -> Tensor:
        opened = {} if opened is None else opened
        if name not in opened:
            opened.update(self._steps[name](lambda key: self.base.stored[key].read()))
        return opened.pop(name)

    def group(self, name: str) -> tuple[str, ...]:
        """The base tensors that ``name`` comes from: names of one group are best read one after the other."""
        return self._steps[name].inputs if name in self._steps else (name,)


class AdapterMerger:
    """Adds an adapter to blocks of rows of its layer's weight."""

    def __init__(self, adapter: TrainedLora, shape: tuple[int, ...]) -> None:
        self.adapter = adapter
        self._a, self._b, self._magnitude = map(self._load, ('lora_A', 'lora_B', 'lora_magnitude_vector'))
        if shape != (self._b.shape[0], *self._a.shape[1:]):
            raise CheckpointError(
                f'{adapter.module}: the base weight is {shape}, its adapter {(self._b.shape[0], *self._a.shape[1:])}',
                expected='a linear layer and an adapter of its size',
                fix='take the config and the base of that training',
            )

    def __call__(self, rows: Tensor, start: int) -> Tensor:
        """Rows of the weight in float32, from row ``start``, merged in place."""
        block = slice(start, start + len(rows))
        magnitude = None if self._magnitude is None else self._magnitude[block]
        return add_lora_(rows, self._a, self._b[block], self.adapter.alpha / self.adapter.r, magnitude)

    def _load(self, kind: str) -> Tensor | None:
        stored = self.adapter.tensors.get(f'{self.adapter.module}.{kind}.{ADAPTER}.weight')
        return None if stored is None else stored.read().float()


def _buffer(memory: dict[torch.dtype, Tensor], dtype: torch.dtype, rows: int, shape: tuple[int, ...]) -> Tensor:
    """A buffer for ``rows`` rows of a tensor, the same at every call."""
    if dtype not in memory:
        memory[dtype] = torch.empty(rows, *shape[1:], dtype=dtype)
    return memory[dtype]


def _as(rows: Tensor, dtype: torch.dtype, memory: dict[torch.dtype, Tensor], most: int, keep: bool = False) -> Tensor:
    """The rows in another dtype, in ``memory``; themselves where they have it and need not be kept as they are."""
    if rows.dtype == dtype and not keep:
        return rows
    return _buffer(memory, dtype, most, tuple(rows.shape))[: len(rows)].copy_(rows)


def join_rows(blocks: Iterable[Tensor], shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Blocks of rows as one tensor."""
    if len(shape) < 2:
        (whole,) = blocks
        return whole
    made, done = torch.empty(shape, dtype=dtype), 0
    for block in blocks:
        made[done : done + len(block)] = block
        done += len(block)
    return made


def _adapters(state: Mapping[str, StoredTensor], tune: Mapping[str, Any]) -> dict[str, TrainedLora]:
    """The adapters of a checkpoint by module; every adapter tensor must belong to a whole one."""
    found: dict[str, TrainedLora] = {}
    left = {name for name in state if is_lora_key(name)}
    for name in state:
        if not (match := _LORA_A.fullmatch(name)):
            continue
        module = match[1]
        spec = tune.get(part_of(module), {})
        dora = bool(spec.get('dora'))
        kinds = ('lora_A', 'lora_B', *(('lora_magnitude_vector',) if dora else ()))
        tensors = {key: state[key] for kind in kinds if (key := f'{module}.{kind}.{ADAPTER}.weight') in state}
        rank = state[name].shape[0]
        if len(tensors) != len(kinds) or spec.get('r') != rank:
            raise CheckpointError(
                f'{module}: adapter tensors {sorted(tensors)} of rank {rank}, settings {spec}',
                expected=f'{kinds} of rank {spec.get("r")}',
                fix='the checkpoint is damaged or was edited: take another one',
            )
        left -= tensors.keys()
        found[module] = TrainedLora(module, tensors, rank, float(spec['alpha']), dora)
    if left:
        raise CheckpointError(
            f'{count_of(len(left), "adapter tensor")} that mmft cannot merge, such as {sorted(left)[:4]}',
            expected='LoRA on linear layers',
            fix='train with linear layers as tune targets',
        )
    return found
