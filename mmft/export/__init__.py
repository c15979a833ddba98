"""Weights out: a training checkpoint as a directory that transformers, LMDeploy and ``mmft.load`` read."""

from mmft.export.convert import Export, convert

__all__ = ['Export', 'convert']
