"""Models: the composite ``VLM`` and the parts that can stand in it."""

from mmft.models.base import LanguageModel, Projector, VisionTower
from mmft.models.language import *  # noqa: F403
from mmft.models.language import __all__ as _language
from mmft.models.merge import AnyResMerge
from mmft.models.projectors import (
    MLP,
    BenchResampler,
    Identity,
    Linear,
    MoEMLP,
    MoFMLP,
    PixelShuffleMLP,
    QFormer,
    Resampler,
)
from mmft.models.vision import CLIP, DINOv2, InternViT, MoFTower, SigLIP, TimmBackbone, TimmViT
from mmft.models.vlm import VLM

__all__ = [
    'CLIP',
    'MLP',
    'VLM',
    'AnyResMerge',
    'BenchResampler',
    'DINOv2',
    'Identity',
    'InternViT',
    'LanguageModel',
    'Linear',
    'MoEMLP',
    'MoFMLP',
    'MoFTower',
    'PixelShuffleMLP',
    'Projector',
    'QFormer',
    'Resampler',
    'SigLIP',
    'TimmBackbone',
    'TimmViT',
    'VisionTower',
    *_language,
]
