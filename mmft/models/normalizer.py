"""Pixels as the vision towers expect them: the means and deviations of their training, and ``TileNormalizer``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseDataPreprocessor
from torch import Tensor

__all__ = [
    'IMAGENET_MEAN',
    'IMAGENET_STD',
    'OPENAI_CLIP_MEAN',
    'OPENAI_CLIP_STD',
    'SIGLIP_MEAN',
    'SIGLIP_STD',
    'TOWER_PIXELS',
    'TileNormalizer',
]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
OPENAI_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
SIGLIP_MEAN = SIGLIP_STD = (0.5, 0.5, 0.5)

_CLIP = {'pixel_mean': OPENAI_CLIP_MEAN, 'pixel_std': OPENAI_CLIP_STD}
TOWER_PIXELS: dict[str, dict[str, tuple[float, ...]]] = {
    'CLIP': _CLIP, 'MoFTower': _CLIP, 'SigLIP': {'pixel_mean': SIGLIP_MEAN, 'pixel_std': SIGLIP_STD},
}  # fmt: skip
"""What each tower was trained with; ImageNet's numbers, the ``VLM``'s default, for the others."""


class TileNormalizer(BaseDataPreprocessor):
    """Moves a batch to the model's device and turns uint8 tiles into normalised floats there.

    Tiles travel as bytes, a quarter of the traffic; float tiles are taken as normalised already.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer('mean', torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def normalize(self, tiles: Tensor) -> Tensor:
        """(N,3,S,S) uint8 -> float32; exactly the operations, in order, of torchvision's ToTensor and Normalize."""
        return tiles.float().div_(255).sub_(self.mean).div_(self.std) if tiles.dtype == torch.uint8 else tiles

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """A collated batch, on the device, tiles normalised. ``training`` is mmengine's and changes nothing."""
        data = self.cast_data(dict(data))
        if data.get('pixel_values') is not None:
            data['pixel_values'] = self.normalize(data['pixel_values'])
        return data
