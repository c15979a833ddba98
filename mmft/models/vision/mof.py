"""MoFTower, a mixture of features: several towers look at the same tile, their features side by side.

The tower of interleaved or channel-mixed MoF (arXiv:2401.06209): CLIP and DINOv2 there. The projector decides what
becomes of the two halves (``MoFMLP`` gives each its own MLP and interleaves the tokens).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest

import torch
from torch import Tensor, nn

from mmft.errors import ConfigError
from mmft.models.base import VisionTower
from mmft.registry import VISION_TOWERS
from mmft.words import count_of

__all__ = ['MoFTower']


@VISION_TOWERS.register_module()
class MoFTower(VisionTower):
    """Features of several towers, concatenated over channels: Dv is the sum of theirs.

    Args:
        towers: two or more built towers, or their config dicts. The first one's tile side is the side of all; the
            others resize their positions to it (DINOv2's are made for 518 px, CLIP's for 336).

    Attributes:
        hidden_sizes: Dv of each tower, in order.

    >>> small = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=56)
    >>> tower = MoFTower([dict(type='CLIP', **small), dict(type='DINOv2', **small)])
    >>> tower(torch.zeros(3, 3, 56, 56)).shape
    torch.Size([3, 16, 64])
    """

    def __init__(self, towers: Sequence[VisionTower | dict]) -> None:
        super().__init__()
        if not isinstance(towers, Sequence) or not all(isinstance(each, (VisionTower, Mapping)) for each in towers):
            raise ConfigError(
                f'MoFTower: towers {towers!r}', expected="a list of config dicts, such as [dict(type='CLIP'), ...]"
            )
        self.towers = nn.ModuleList(VISION_TOWERS.build(tower) for tower in towers)
        if len(self.towers) < 2:
            raise ConfigError(
                f'MoFTower: {count_of(len(self.towers), "tower")}', expected='two or more', fix='use the tower itself'
            )
        side = self.towers[0].image_size
        patches = [tower.num_patches(side) for tower in self.towers]
        if len(set(patches)) > 1:
            raise ConfigError(
                f'MoFTower: the towers see {patches} patches in a tile of {side} px',
                expected='the same number',
                fix='set patch_size, select_feature and the first image_size accordingly',
            )
        self.hidden_sizes = [tower.hidden_size for tower in self.towers]
        self.hidden_size, self.image_size = sum(self.hidden_sizes), side
        self.intermediate_size = sum(getattr(t, 'intermediate_size', 4 * t.hidden_size) for t in self.towers)

    @property
    def layers(self) -> nn.ModuleList:
        """Block N of every tower together, so that 'unfreeze from layer N' opens each tower from its own layer N."""
        rows = zip_longest(*(tower.layers for tower in self.towers))
        return nn.ModuleList(nn.ModuleList(block for block in row if block is not None) for row in rows)

    @property
    def idle_layers(self) -> nn.ModuleList:
        """Those of every tower."""
        return nn.ModuleList(layer for tower in self.towers for layer in tower.idle_layers)

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether every tower recomputes its blocks; setting it sets theirs."""
        return all(tower.gradient_checkpointing for tower in self.towers)

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, value: bool) -> None:
        for tower in self.towers:
            tower.gradient_checkpointing = value

    def num_patches(self, image_size: int) -> int:
        """P of a tile of side ``image_size`` px."""
        return self.towers[0].num_patches(image_size)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(N,3,S,S) normalised -> (N,P,Dv), the first tower's channels first."""
        return torch.cat([tower(pixel_values) for tower in self.towers], dim=-1)

    def reset_buffers(self) -> None:
        """Those of every tower."""
        for tower in self.towers:
            tower.reset_buffers()
