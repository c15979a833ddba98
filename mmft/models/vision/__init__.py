"""Vision towers: tiles in, patch features out. A new one is a file here and a line below."""

from mmft.models.vision.hf import CLIP, DINOv2, SigLIP
from mmft.models.vision.intern_vit import InternViT
from mmft.models.vision.mof import MoFTower
from mmft.models.vision.timm_backbone import TimmBackbone
from mmft.models.vision.timm_vit import TimmViT

__all__ = ['CLIP', 'DINOv2', 'InternViT', 'MoFTower', 'SigLIP', 'TimmBackbone', 'TimmViT']
