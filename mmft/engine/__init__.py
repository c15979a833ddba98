"""Training: runner, loops, optimizer, hooks, checkpoints."""

from mmft.engine.hooks import CheckpointHook, LabelMaskHook, MovedPartsHook, ProgressHook, SampleAnswersHook
from mmft.engine.judging.config import validate_config
from mmft.engine.loops import TrainLoop
from mmft.engine.optim import OptimWrapper, build_optim_wrapper
from mmft.engine.runner import Runner
from mmft.engine.schedule import WarmupDecayLR
from mmft.engine.validation import ValLoop

__all__ = [
    'CheckpointHook',
    'LabelMaskHook',
    'MovedPartsHook',
    'OptimWrapper',
    'ProgressHook',
    'Runner',
    'SampleAnswersHook',
    'TrainLoop',
    'ValLoop',
    'WarmupDecayLR',
    'build_optim_wrapper',
    'validate_config',
]
