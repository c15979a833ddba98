"""Hooks of a training run, each one concern."""

from mmft.engine.hooks.answers import SampleAnswersHook
from mmft.engine.hooks.keep_checkpoints import CheckpointHook
from mmft.engine.hooks.label_mask import LabelMaskHook
from mmft.engine.hooks.moved import MovedPartsHook
from mmft.engine.hooks.progress import ProgressHook
from mmft.engine.hooks.text_only import TextOnlyHook

__all__ = ['CheckpointHook', 'LabelMaskHook', 'MovedPartsHook', 'ProgressHook', 'SampleAnswersHook', 'TextOnlyHook']
