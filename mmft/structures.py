"""The two things that travel through mmft: an encoded ``Sample`` and a collated ``Batch``.

Shape legend, used in every docstring: B samples, L tokens, T tiles of one sample, N = sum of T over the batch
(0 allowed: text only), S tile side in pixels, P patches and Q language-model tokens per tile, Dv / Dl hidden sizes
of vision tower and language model, V vocabulary size.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    import torch

__all__ = ['IGNORE_INDEX', 'IMAGE_PLACEHOLDER', 'Batch', 'Message', 'Sample']

IGNORE_INDEX = -100
"""Label of a token that is not trained (torch's default ``ignore_index``). Defined here and nowhere else."""

IMAGE_PLACEHOLDER = '<image>'
"""Where a picture stands in a message, in every data format that mmft reads."""


class _Turn(TypedDict):
    role: str
    content: str


class Message(_Turn, total=False):
    """One turn. ``role`` is ``system``, ``user`` or ``assistant``; ``content`` may hold ``<image>`` placeholders.

    An answer with ``loss: False`` is read by the model and not trained; it is left out where the answer is trained.
    """

    loss: bool


@dataclass(slots=True)
class Sample:
    """One encoded conversation.

    Attributes:
        input_ids: (L,) int64.
        labels: (L,) int64, unshifted (``VLM`` shifts); ``IGNORE_INDEX`` where nothing is trained.
        pixel_values: (T,3,S,S) uint8, or None for text only.
        num_tiles: tiles of each picture, in order; its sum is T.
        image_sizes: (width, height) in pixels of each picture as it was opened.
        meta: where the sample comes from: ``file``, ``line``, ``id``...; ``references``, if the record has ``answers``.
        image_grids: (columns, rows) of each picture, where the image processor arranges tiles; else empty.
        num_slots: placeholders of each picture in ``input_ids``, in order; empty where nobody counted them.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    pixel_values: torch.Tensor | None = None
    num_tiles: list[int] = field(default_factory=list)
    image_sizes: list[tuple[int, int]] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)
    image_grids: list[tuple[int, int]] = field(default_factory=list)
    num_slots: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return self.input_ids.numel()


class Batch(TypedDict, total=False):
    """What the collator makes and ``VLM.forward(**batch)`` takes.

    ``input_ids, labels, position_ids`` (B,L) int64, ``attention_mask`` (B,L) bool, ``pixel_values`` (N,3,S,S) uint8 or
    None. In a packed batch B is 1 and ``position_ids`` restart at 0 with every sample. Where tiles are arranged,
    ``image_sizes`` (M,2) int64 hold (width, height) and ``image_grids`` (M,2) int64 (columns, rows) of the M pictures
    of the batch, in order, and ``image_slots``, a list of M, what placeholders each became; elsewhere they are missing.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    position_ids: torch.Tensor
    labels: torch.Tensor
    pixel_values: torch.Tensor | None
    image_sizes: torch.Tensor
    image_grids: torch.Tensor
    image_slots: list[int]
