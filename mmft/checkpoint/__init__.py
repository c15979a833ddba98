"""Weights in: model directories of every layout that mmft knows, read as data."""

from mmft.checkpoint.build import build_meta
from mmft.checkpoint.encoder import load_encoder
from mmft.checkpoint.load import build_pretrained, load, open_pretrained, read_layout
from mmft.files.tensors import TensorDirectory, fingerprint

__all__ = ['TensorDirectory', 'build_meta', 'build_pretrained', 'fingerprint', 'load', 'load_encoder',
           'open_pretrained', 'read_layout']  # fmt: skip
