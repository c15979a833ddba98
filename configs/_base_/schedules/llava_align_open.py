"""Alignment as ShareGPT4V does it (arXiv:2311.12793): the tower from layer N on, projector and LLM; 256 samples a step.

`from_layer` counts from 0 at the input; embeddings and lower blocks stay as they are.
"""

from mmengine.config import read_base

with read_base():
    from .llava import *

tune = dict(vision=dict(type='full', from_layer=12), projector='full', llm='full')
optim_wrapper.update(optimizer=dict(lr=2e-5))
deepspeed = 'zero2'
