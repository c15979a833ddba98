"""Vision towers: tiles in, patch features out."""

from mmft.models.vision.intern_vit import InternViT

__all__ = ['InternViT']
