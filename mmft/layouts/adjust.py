"""Tensors that are changed to fit a class which has no other place for what they mean."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ['Adjustment']


@dataclass(frozen=True)
class Adjustment:
    """A change of one tensor on its way out.

    Attributes:
        factor: every value is multiplied by it, in float32, before it is rounded.
        rows: so many rows in all; what is added is the mean of the rows there are. As a row of an output head it is
            never the most likely token: its logit is the mean of all logits.
        absent: the tensor is not written, which is right only where it is zero.
    """

    factor: float = 1.0
    rows: int | None = None
    absent: bool = False

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape after the change."""
        return shape if self.rows is None else (self.rows, *shape[1:])

    def blocks(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Blocks of rows in float32, changed; only one of them is in memory."""
        total, count = 0.0, 0
        for block in blocks:
            if self.rows is not None:
                total, count = total + block.double().sum(0), count + len(block)
            yield block.float() * self.factor
        if self.rows is not None:
            mean = (total / count * self.factor).float()
            yield mean.expand(self.rows - count, *mean.shape)

    def apply(self, tensor: Tensor) -> Tensor:
        """The whole tensor in float32, changed.

        >>> Adjustment(rows=3).apply(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        tensor([[1., 2.],
                [3., 4.],
                [2., 3.]])
        """
        return torch.cat(list(self.blocks([tensor])))
