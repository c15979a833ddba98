"""Whether the tensors of a directory fit a model: by their names and shapes alone, none of them is read."""

from __future__ import annotations

from collections.abc import Iterator

from mmft.checkpoint.idle import idle_and_absent
from mmft.files.tensors import TensorSource
from mmft.layouts import NameTable
from mmft.models.buffers import tensors_of
from mmft.models.vlm import VLM

__all__ = ['mismatches']


def mismatches(model: VLM, layout: NameTable, tensors: TensorSource) -> Iterator[str]:
    """What ``fill`` would refuse: tensors missing, left over or of other shapes.

    Args:
        model: on any device, as the config describes it.
        layout: of the directory.
        tensors: of the directory.

    Raises:
        CheckpointError: tensors that the layout does not know.
    """
    slots = {name: tuple(tensor.shape) for name, tensor in tensors_of(model, remove_duplicate=False).items()}
    once = {*tensors_of(model)}
    filled: set[str] = set()
    for step in layout.to_ours(tensors):
        for name, value in step(tensors.without_values).items():
            shape = tuple(value.shape)
            if slots.get(name) == shape:
                filled.add(name)
            elif not layout.may_be_random(name):
                filled.add(name)
                there = f'{slots[name]} in the model' if name in slots else 'not in the model'
                yield f'{name}: {shape} in the weights, {there}'
    missing = {n for n in once - filled if not layout.may_be_absent(n) and not layout.may_be_random(n)}
    for name in sorted(missing - idle_and_absent(layout, missing)):
        yield f'{name}: in the model, but not in the weights'
