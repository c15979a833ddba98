"""InternVL's first stage: the MLP alone learns, at 2e-4, with 100 steps of warm-up; 512 samples a step.

Source: internvl_chat/shell/internvl2.5/stage1 of OpenGVLab/InternVL (512 rows of up to 16,384 packed tokens a step).
"""

from mmengine.config import read_base

with read_base():
    from .adamw_cosine import *

tune = dict(vision='frozen', projector='full', llm='frozen')
optim_wrapper.update(optimizer=dict(lr=2e-4))
param_scheduler = dict(type='cosine', warmup=100, min_lr_ratio=0.0)
