"""How good answers are: generating them, metrics of one answer, and intervals for their mean."""

from __future__ import annotations

from mmft.evaluation import metrics, vqa

__all__ = ['metrics', 'vqa']
