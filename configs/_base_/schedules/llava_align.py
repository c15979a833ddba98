"""LLaVA-1.5's first stage, alignment: the projector alone learns, at 1e-3; 256 samples a step."""

from mmengine.config import read_base

with read_base():
    from .llava import *

tune = dict(vision='frozen', projector='full', llm='frozen')
optim_wrapper.update(optimizer=dict(lr=1e-3))
