"""Blocks of a vision tower that never run, and that a directory therefore may lack.

TinyLLaVABench deletes the last block of its SigLIP and takes what the new last one gives: its checkpoints hold 26
blocks, while the tower that they name, and ``mm_vision_select_layer`` with it, has 27.

Source: ``tinyllava/model/multimodal_encoder/siglip_encoder.py`` of TinyLLaVABench.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from mmft.layouts import NameTable
from mmft.registry import VISION_TOWERS

__all__ = ['idle_and_absent']


def idle_and_absent(layout: NameTable, missing: Iterable[str]) -> set[str]:
    """Names of ``missing`` that no forward reads: blocks above ``select_layer``, absent as a whole.

    Args:
        layout: whose model is asked, not a config's: with another number of blocks ``select_layer`` is another one.
        missing: our names of tensors that the directory does not hold.
    """
    missing = set(missing)
    if not any(name.startswith('vision.') for name in missing):
        return set()
    with torch.device('meta'):
        tower = VISION_TOWERS.build(dict(layout.model_config['vision']))
    names = {id(parameter): f'vision.{name}' for name, parameter in tower.named_parameters()}
    layers = [{names[id(parameter)] for parameter in layer.parameters()} for layer in tower.idle_layers]
    return set().union(*(layer for layer in layers if layer <= missing))
