"""LLaVA-1.5's LoRA: rank 128 on the language model at 2e-4, the projector at 2e-5, tower frozen; 128 samples a step."""

from mmengine.config import read_base

with read_base():
    from .llava import *

tune = dict(vision='frozen', projector='full', llm=dict(type='lora', r=128, alpha=256, dropout=0.05))
optim_wrapper.update(optimizer=dict(lr=2e-4), paramwise_cfg=dict(parts=dict(projector=dict(lr=2e-5))))
