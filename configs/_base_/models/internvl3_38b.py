"""InternVL3-38B: InternViT-6B-448px-V2_5 + Qwen2.5-32B, 38.4 billion parameters; InternVL2.5-38B's sizes."""

from mmengine.config import read_base

with read_base():
    from .internvl2_5_38b import *

pretrained = 'pretrained/InternVL3-38B'
pretrained_repo = 'OpenGVLab/InternVL3-38B'
