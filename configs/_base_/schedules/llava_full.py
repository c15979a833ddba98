"""LLaVA-1.5's second stage, instruction tuning: projector and language model whole, the tower frozen; 128 samples."""

from mmengine.config import read_base

with read_base():
    from .llava import *

tune = dict(vision='frozen', projector='full', llm='full')
optim_wrapper.update(optimizer=dict(lr=2e-5))
deepspeed = 'zero3'
