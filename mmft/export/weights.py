"""Weights of a trained model into a directory of a layout: planned from shapes, then streamed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmft.errors import ConfigError
from mmft.export.inputs import most_bytes
from mmft.export.lazy_tensors import StoredTensor
from mmft.export.shards import ShardWriter
from mmft.export.trained_weights import TrainedWeights, join_rows
from mmft.layouts import Layout, Step
from mmft.layouts.adjust import Adjustment
from mmft.machine import cpu_count
from mmft.models.buffers import tensors_of
from mmft.models.vlm import VLM

__all__ = ['WeightsExport', 'run_in_threads', 'tied_names']

_AS_IT_IS = Adjustment()


def tied_names(model: VLM) -> dict[str, str]:
    """Second names of shared parameters -> the name they are stored under."""
    first = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        name: first[id(parameter)]
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if first[id(parameter)] != name
    }


class WeightsExport:
    """What goes where.

    Args:
        model: on the meta device: names, shapes and ties.
        layout: the one to write.
        dtype: of every tensor; None keeps the base's.
        untie: write shared tensors under each of their names, for a layout that knows no ties.
        adjustments: by mmft's names, the tensors that are changed for the layout's classes.

    Raises:
        ConfigError: a tensor that the classes have no place for is not zero.
    """

    def __init__(
        self,
        model: VLM,
        weights: TrainedWeights,
        layout: Layout,
        dtype: torch.dtype | None,
        untie: bool = False,
        adjustments: Mapping[str, Adjustment] | None = None,
    ) -> None:
        self.weights, self.layout, self.dtype, self.adjustments = weights, layout, dtype, dict(adjustments or {})
        self.source = tied_names(model)
        self._check_absent()
        self.shapes = {
            name: self.adjustment(name).shape(tuple(p.shape))
            for name, p in tensors_of(model, remove_duplicate=False).items()
            if not self.adjustment(name).absent
        }
        names = [name for name in self.shapes if untie or name not in self.source]
        self.steps: list[Step] = layout.to_theirs(names)
        self.tensors: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
        for step in self.steps:
            dtypes = {self.target_dtype(name) for name in step.inputs}
            target = dtypes.pop() if len(dtypes) == 1 else torch.float32
            # Shapes of rearranged tensors: the rearrangement itself, run without data.
            made = step(lambda name: torch.empty(self.shapes[name], device='meta'))
            self.tensors |= {name: (target, tuple(value.shape)) for name, value in made.items()}

    def adjustment(self, ours: str) -> Adjustment:
        """How a tensor is changed, by any of its names."""
        return self.adjustments.get(self.source.get(ours, ours), _AS_IT_IS)

    def _check_absent(self) -> None:
        for name, change in self.adjustments.items():
            if change.absent and bool(self.weights.get(name).any()):
                raise ConfigError(
                    f'{name} is not zero, and {self.layout.architecture} has no place for it',
                    expected='a layout that holds every tensor of the model',
                    fix='use --layout native, which mmft.load reads',
                )

    def target_dtype(self, ours: str) -> torch.dtype:
        """The dtype in which a tensor is written, by mmft's name."""
        kind = self.weights.dtype(self.source.get(ours, ours))
        return kind if self.dtype is None or not kind.is_floating_point else self.dtype  # counts stay whole numbers

    @property
    def nbytes(self) -> int:
        """Of all tensors."""
        return sum(torch.Size(shape).numel() * dtype.itemsize for dtype, shape in self.tensors.values())

    @property
    def dtype_name(self) -> str:
        """The dtype that most of the bytes have."""
        return str(most_bytes(self.tensors.values())).removeprefix('torch.')

    def describe(self) -> str:
        """What is written."""
        return f'{self.dtype_name} weights'

    def get(self, ours: str, opened: dict[str, Tensor] | None = None) -> Tensor:
        """The tensor as it is written, under mmft's name; ``opened`` as ``TrainedWeights.get`` has it."""
        return join_rows(self.blocks(ours, opened), self.shapes[ours], self.target_dtype(ours))

    def blocks(self, ours: str, opened: dict[str, Tensor] | None = None) -> Iterable[Tensor]:
        """``get``, a block of rows at a time."""
        source, dtype, change = self.source.get(ours, ours), self.target_dtype(ours), self.adjustment(ours)
        if change is _AS_IT_IS:
            return self.weights.blocks(source, dtype, opened)
        return (block.to(dtype) for block in change.blocks(self.weights.blocks(source, torch.float32, opened)))

    def _pieces(self, step: Step, opened: dict[str, Tensor]) -> list[tuple[str, Iterable[Tensor] | StoredTensor]]:
        """(name, blocks of rows) of what a step gives; a ``StoredTensor`` is to be copied as it is."""
        found: dict[str, StoredTensor | None] = {}
        sources = [self.source.get(name, name) for name in step.inputs]
        if any(self.adjustment(name) is not _AS_IT_IS for name in step.inputs):
            pass
        elif step.convert is None:
            found = {step.outputs[0]: self.weights.stored(sources[0])}
        elif self._same_layout() and not any(map(self.weights.is_changed, sources)):
            found = {name: self.weights.base.stored.get(name) for name in step.outputs}
        if found and all(s is not None and self._is_final(name, s) for name, s in found.items()):
            return list(found.items())
        if step.convert is None:
            return [(step.outputs[0], self.blocks(step.inputs[0], opened))]
        return [(name, [value]) for name, value in step(lambda name: self.get(name, opened)).items()]

    def _is_final(self, name: str, stored: StoredTensor) -> bool:
        return stored.in_order and (stored.dtype, stored.shape) == self.tensors[name]

    def _same_layout(self) -> bool:
        return self.weights.base is not None and type(self.weights.base.layout) is type(self.layout)

    def write(self, directory: Path, max_shard_size: int | str) -> list[str]:
        """Write the weights.

        Returns:
            The file names.
        """
        writer = ShardWriter(directory, self.tensors, max_shard_size)

        def write_group(steps: list[Step]) -> None:
            opened: dict[str, Tensor] = {}
            for step in steps:
                for name, value in self._pieces(step, opened):
                    writer.copy(name, value) if isinstance(value, StoredTensor) else writer.write(name, value)

        groups: dict[tuple[str, ...], list[Step]] = {}
        for step in self.steps:
            groups.setdefault(self.weights.group(self.source.get(step.inputs[0], step.inputs[0])), []).append(step)
        try:
            run_in_threads(write_group, groups.values())
            writer.close()
        finally:
            writer.abandon()
        return sorted(set(writer.files.values()))


def run_in_threads(function: Callable[[Any], None], items: Iterable[Any]) -> None:
    """Call ``function`` for every item on a few threads; the first error ends it.

    torch computes on one core in each thread, so no core waits for another. One thread more than cores: while one waits
    for the disk, the others compute.
    """
    count, before = min(8, cpu_count()) + 1, torch.get_num_threads()
    try:
        with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            futures = [pool.submit(function, item) for item in items]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    finally:
        torch.set_num_threads(before)  # what one thread sets, every thread that starts later has
