"""MiniGPT-4's design (arXiv:2304.10592): BLIP-2's ViT-g and Q-Former frozen, one linear map, Vicuna-7B; 32 tokens."""

from mmengine.config import read_base

with read_base():
    from .blip2_vicuna_7b import *

# Of the projector only the linear map trains, whatever `tune` says of it.
model.update(projector=dict(frozen_qformer=True))
