"""LLaVA-OneVision's last stage (arXiv:2408.03326): every weight at 1e-5, those of the vision tower at 2e-6."""

from mmengine.config import read_base

with read_base():
    from .llava import *

tune = dict(vision='full', projector='full', llm='full')
optim_wrapper.update(optimizer=dict(lr=1e-5), paramwise_cfg=dict(parts=dict(vision=dict(lr=2e-6))))
