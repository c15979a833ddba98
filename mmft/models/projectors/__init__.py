"""Projectors: patch features in, language-model tokens out. A new one is a file here and a line below."""

from mmft.models.projectors.pixel_shuffle_mlp import PixelShuffleMLP

__all__ = ['PixelShuffleMLP']
