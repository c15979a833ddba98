"""Projectors: patch features in, language-model tokens out. A new one is a file here and a line below."""

from mmft.models.projectors.bench_resampler import BenchResampler
from mmft.models.projectors.identity import Identity
from mmft.models.projectors.linear import Linear
from mmft.models.projectors.mlp import MLP
from mmft.models.projectors.moe_mlp import MoEMLP
from mmft.models.projectors.mof_mlp import MoFMLP
from mmft.models.projectors.pixel_shuffle_mlp import PixelShuffleMLP
from mmft.models.projectors.qformer import QFormer
from mmft.models.projectors.resampler import Resampler

__all__ = [
    'MLP',
    'BenchResampler',
    'Identity',
    'Linear',
    'MoEMLP',
    'MoFMLP',
    'PixelShuffleMLP',
    'QFormer',
    'Resampler',
]
