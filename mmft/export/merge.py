"""The trained model's weights, one tensor at a time: a base directory, a checkpoint over it, adapters merged.

Names are mmft's. Adapters are merged into the base's own weights, also where training saw them quantised (QLoRA): the
4-bit copies exist in memory only.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mmft.checkpoint.layouts import Step
from mmft.errors import CheckpointError
from mmft.export.sources import Base, TrainingCheckpoint
from mmft.export.stored import Stored
from mmft.models.lora import ADAPTER, is_lora_key, lora_delta
from mmft.models.tuning import part_of

__all__ = ['Adapter', 'Merger', 'TrainedWeights']

# Rows (and, of narrow tensors, values) handled at a time: small enough for the cache, large enough for the matmul.
_ROWS, _VALUES = 256, 1 << 19
_LORA_A = re.compile(rf'(.+)\.lora_A\.{ADAPTER}\.weight')


@dataclass(frozen=True)
class Adapter:
    """LoRA of one layer, still on disk: ``{module}.lora_A.default.weight`` and so on."""

    module: str
    tensors: dict[str, Stored]
    r: int
    alpha: float
    dora: bool


@dataclass
class TrainedWeights:
    """Every tensor of the trained model under mmft's names.

    Args:
        names: all parameters the model has, one per tied group.
        base: None where training began with random weights: then the checkpoint holds everything.
        checkpoint: None for the base as it is.

    Raises:
        CheckpointError: tensors that belong nowhere, or that are nowhere to be found.
    """

    names: Iterable[str]
    base: Base | None
    checkpoint: TrainingCheckpoint | None
    adapters: dict[str, Adapter] = field(init=False)
    _steps: dict[str, Step] = field(init=False, default_factory=dict)
    _trained: dict[str, Stored] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.names = list(self.names)
        if self.base is not None:
            self._steps = {name: step for step in self.base.layout.to_ours(self.base.stored) for name in step.outputs}
        state = self.checkpoint.state if self.checkpoint is not None else {}
        tune = self.checkpoint.meta['tune'] if self.checkpoint is not None else {}
        self.adapters = _adapters(state, tune)
        self._trained = {name: stored for name, stored in state.items() if not is_lora_key(name)}
        self._check(set(self.names))

    def _check(self, names: set[str]) -> None:
        where = self.checkpoint.path if self.checkpoint is not None else self.base.path
        strange = sorted((set(self._trained) | {f'{module}.weight' for module in self.adapters}) - names)
        if strange:
            raise CheckpointError(
                f'{where} holds {len(strange)} tensors that the model of the config has not, such as {strange[:4]}',
                expected='the model that was trained',
                fix='take the config from the work_dir of the checkpoint',
            )
        absent = sorted(names - set(self._trained) - set(self._steps))
        if absent:
            raise CheckpointError(
                f'{len(absent)} tensors are neither in {where} nor in a base, such as {absent[:4]}',
                expected='a base (pretrained), or a checkpoint in which every part was trained in full'
                if self.base is None
                else f'all tensors of the model in {self.base.path}',
                fix='frozen weights that were drawn at random are in no file: train all parts, or start from a base',
            )

    def is_trained(self, name: str) -> bool:
        """Whether the tensor itself was trained, not an adapter over it."""
        return name in self._trained

    def is_changed(self, name: str) -> bool:
        """Whether training changed this tensor."""
        return self.is_trained(name) or name.removesuffix('.weight') in self.adapters

    def stored(self, name: str) -> Stored | None:
        """Where the tensor lies in a file as it is, if it does."""
        if name in self._trained:
            return self._trained[name]
        if self.is_changed(name):
            return None
        step = self._steps[name]
        return self.base.stored[step.inputs[0]] if step.convert is None else None

    def dtype(self, name: str) -> torch.dtype:
        """dtype of the base's tensor, or of the trained one where there is no base."""
        if name in self._steps:
            return self.base.stored[self._steps[name].inputs[0]].dtype
        return self._trained[name].dtype

    def get(self, name: str, dtype: torch.dtype | None = None, opened: dict[str, Tensor] | None = None) -> Tensor:
        """The tensor, rounded once, to ``dtype`` (None: ``self.dtype(name)``).

        Args:
            opened: where the other tensors of a packed one wait for their turn; the caller keeps it from call to call.
        """
        blocks = list(self.blocks(name, dtype, opened))
        return torch.cat(blocks) if len(blocks) > 1 else blocks[0]

    def blocks(
        self, name: str, dtype: torch.dtype | None = None, opened: dict[str, Tensor] | None = None
    ) -> Iterator[Tensor]:
        """``get``, a block of rows at a time: only the blocks are in memory, where the file allows it."""
        dtype = dtype or self.dtype(name)
        adapter = self.adapters.get(name.removesuffix('.weight'))
        source = self._trained.get(name) or self._plain_base(name) or self._of_base(name, opened)
        if len(source.shape) < 2 or (isinstance(source, Stored) and source.stride is not None):
            yield (source.read() if isinstance(source, Stored) else source).to(dtype)
            return
        merge = None if adapter is None else Merger(adapter, tuple(source.shape))
        step = max(_ROWS, _VALUES // max(1, math.prod(source.shape[1:])))
        for start in range(0, source.shape[0], step):
            stop = start + step
            rows = source.rows(start, stop) if isinstance(source, Stored) else source[start:stop]
            yield (rows if merge is None else merge(rows, start)).to(dtype)

    def _plain_base(self, name: str) -> Stored | None:
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


class Merger:
    """Adds an adapter to blocks of rows of its layer's weight."""

    def __init__(self, adapter: Adapter, shape: tuple[int, ...]) -> None:
        self.adapter = adapter
        self._by_row = tuple(
            f'{adapter.module}.{kind}.{ADAPTER}.weight' for kind in ('lora_B', 'lora_magnitude_vector')
        )
        self._loaded = {name: stored.read().float() for name, stored in adapter.tensors.items()}
        a, b = (self._loaded[f'{adapter.module}.{kind}.{ADAPTER}.weight'] for kind in ('lora_A', 'lora_B'))
        if shape != (b.shape[0], *a.shape[1:]):
            raise CheckpointError(
                f'{adapter.module}: the base weight is {shape}, its adapter {(b.shape[0], *a.shape[1:])}',
                expected='a linear layer and an adapter of its size',
                fix='take the config and the base of that training',
            )

    def __call__(self, rows: Tensor, start: int) -> Tensor:
        """Merged rows in float32."""
        block = slice(start, start + len(rows))
        cut = {name: value[block] if name in self._by_row else value for name, value in self._loaded.items()}
        return lora_delta(self.adapter.module, rows.float(), cut, self.adapter.alpha, self.adapter.r)


def _adapters(state: Mapping[str, Stored], tune: Mapping[str, Any]) -> dict[str, Adapter]:
    """The adapters of a checkpoint by module; every adapter tensor must belong to a whole one."""
    found: dict[str, Adapter] = {}
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
        found[module] = Adapter(module, tensors, rank, float(spec['alpha']), dora)
    if left:
        raise CheckpointError(
            f'{len(left)} adapter tensors that mmft cannot merge, such as {sorted(left)[:4]}',
            expected='LoRA on linear layers',
            fix='train with linear layers as tune targets',
        )
    return found
