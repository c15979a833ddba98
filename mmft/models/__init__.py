"""Models: the composite ``VLM`` and the parts that can stand in it."""

from mmft.models.base import LanguageModel, Projector, VisionTower
from mmft.models.language import CausalLM, InternLM2, Llama, Phi3, Qwen2
from mmft.models.projectors import PixelShuffleMLP
from mmft.models.vision import InternViT
from mmft.models.vlm import VLM

__all__ = [
    'VLM',
    'CausalLM',
    'InternLM2',
    'InternViT',
    'LanguageModel',
    'Llama',
    'Phi3',
    'PixelShuffleMLP',
    'Projector',
    'Qwen2',
    'VisionTower',
]
