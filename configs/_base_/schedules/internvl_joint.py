"""InternVL's second stage: ViT, MLP and language model whole, at 4e-5, the ViT with drop path; 512 samples a step.

Source: internvl_chat/shell/internvl2.5/stage2 of OpenGVLab/InternVL, whose ViT has one rate; layer-wise rates, 0.9 of
the block above, are those of its earlier stages (VIT_LAYER_DECAY_RATE). 1.0 switches them off.
"""

from mmengine.config import read_base

with read_base():
    from .adamw_cosine import *

tune = dict(vision='full', projector='full', llm='full')
optim_wrapper.update(paramwise_cfg=dict(parts=dict(vision=dict(layer_decay=0.9))))
