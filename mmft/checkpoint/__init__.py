"""Weights in: model directories of every layout that mmft knows, read as data."""

from mmft.checkpoint.load import build_meta, build_pretrained, load, load_encoder, open_pretrained, read_layout
from mmft.files.tensors import TensorDirectory, fingerprint

__all__ = ['TensorDirectory', 'build_meta', 'build_pretrained', 'fingerprint', 'load', 'load_encoder',
           'open_pretrained', 'read_layout']  # fmt: skip
