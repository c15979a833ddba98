"""Models: the composite ``VLM`` and the parts that can stand in it."""

from mmft.models.base import LanguageModel, Projector, VisionTower
from mmft.models.language import (
    CausalLM,
    Gemma,
    InternLM2,
    Llama,
    MiniCPM,
    Mistral,
    Phi,
    Phi3,
    Qwen2,
    StableLM,
)
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
    'CausalLM',
    'DINOv2',
    'Gemma',
    'Identity',
    'InternLM2',
    'InternViT',
    'LanguageModel',
    'Linear',
    'Llama',
    'MiniCPM',
    'Mistral',
    'MoEMLP',
    'MoFMLP',
    'MoFTower',
    'Phi',
    'Phi3',
    'PixelShuffleMLP',
    'Projector',
    'QFormer',
    'Qwen2',
    'Resampler',
    'SigLIP',
    'StableLM',
    'TimmBackbone',
    'TimmViT',
    'VisionTower',
]
