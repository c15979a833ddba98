"""Weights of a trained model into a directory of a layout: planned from shapes, then streamed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmft.checkpoint.layouts import Layout, Step
from mmft.export.merge import TrainedWeights
from mmft.export.shards import ShardWriter
from mmft.export.stored import Stored
from mmft.models.vlm import VLM

__all__ = ['WeightsExport', 'run_in_threads', 'tied_names']


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
    """

    def __init__(
        self, model: VLM, weights: TrainedWeights, layout: Layout, dtype: torch.dtype | None, untie: bool = False
    ) -> None:
        self.weights, self.layout, self.dtype = weights, layout, dtype
        self.shapes = {name: tuple(p.shape) for name, p in model.named_parameters(remove_duplicate=False)}
        self.source = tied_names(model)
        names = [name for name in self.shapes if untie or name not in self.source]
        self.steps: list[Step] = layout.to_theirs(names)
        self.tensors: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
        for step in self.steps:
            dtypes = {self.target_dtype(name) for name in step.inputs}
            target = dtypes.pop() if len(dtypes) == 1 else torch.float32
            # Shapes of rearranged tensors: the rearrangement itself, run without data.
            made = step(lambda name: torch.empty(self.shapes[name], device='meta'))
            self.tensors |= {name: (target, tuple(value.shape)) for name, value in made.items()}

    def target_dtype(self, ours: str) -> torch.dtype:
        """The dtype in which a tensor is written, by mmft's name."""
        return self.dtype or self.weights.dtype(self.source.get(ours, ours))

    def main_dtype(self) -> torch.dtype:
        """The dtype that most of the bytes have."""
        sizes: dict[torch.dtype, int] = {}
        for dtype, shape in self.tensors.values():
            sizes[dtype] = sizes.get(dtype, 0) + torch.Size(shape).numel() * dtype.itemsize
        return max(sizes, key=sizes.get)

    def get(self, ours: str, opened: dict[str, Tensor] | None = None) -> Tensor:
        """The tensor as it is written, under mmft's name; ``opened`` as ``TrainedWeights.get`` has it."""
        return self.weights.get(self.source.get(ours, ours), self.target_dtype(ours), opened)

    def _pieces(self, step: Step, opened: dict[str, Tensor]) -> list[tuple[str, Iterable[Tensor] | Stored]]:
        """(name, blocks of rows) of what a step gives; a ``Stored`` is to be copied as it is."""
        found: dict[str, Stored | None] = {}
        sources = [self.source.get(name, name) for name in step.inputs]
        if step.convert is None:
            found = {step.outputs[0]: self.weights.stored(sources[0])}
        elif self._same_layout() and not any(map(self.weights.is_changed, sources)):
            found = {name: self.weights.base.stored.get(name) for name in step.outputs}
        if found and all(s is not None and self._is_final(name, s) for name, s in found.items()):
            return list(found.items())
        if step.convert is None:
            return [(step.outputs[0], self.weights.blocks(sources[0], self.target_dtype(step.inputs[0]), opened))]
        return [(name, [value]) for name, value in step(lambda name: self.get(name, opened)).items()]

    def _is_final(self, name: str, stored: Stored) -> bool:
        return stored.stride is None and (stored.dtype, stored.shape) == self.tensors[name]

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
                    writer.copy(name, value) if isinstance(value, Stored) else writer.write(name, value)

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
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    count = min(8, cores) + 1
    with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        futures = [pool.submit(function, item) for item in items]
        try:
            for future in futures:
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
