"""Pictures that are changed for training: tiles re-encoded as JPEG, so that a model does not depend on perfect ones."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image

__all__ = ['jpeg_tiles']

_QUALITIES = (75, 100)


def jpeg_tiles(tiles: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """(T,3,S,S) uint8 -> the same, each tile as a JPEG of a random quality from 75 to 100 shows it.

    Source: ``simulate_jpeg_degradation`` and ``build_transform`` of OpenGVLab/InternVL,
    ``internvl_chat/internvl/train/dataset.py``, where a set of a meta file asks for it with ``data_augment``.
    """
    shown = []
    for tile, quality in zip(tiles, rng.integers(*_QUALITIES, size=len(tiles), endpoint=True), strict=True):
        data = io.BytesIO()
        Image.fromarray(tile.permute(1, 2, 0).numpy()).save(data, 'JPEG', quality=int(quality))
        with Image.open(data) as image:
            shown.append(torch.from_numpy(np.array(image)).permute(2, 0, 1))
    return torch.stack(shown)
