"""What all of LLaVA-1.5's stages share (arXiv:2310.03744): AdamW without decay, 3% warm-up, cosine, one epoch."""

from mmengine.config import read_base

with read_base():
    from .adamw_cosine import *

optim_wrapper.update(accumulative_counts=1, optimizer=dict(weight_decay=0.0))
