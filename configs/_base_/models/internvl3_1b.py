"""InternVL3-1B: InternViT-300M-448px-V2_5 + Qwen2.5-0.5B, 938 million parameters; InternVL2.5-1B's sizes."""

from mmengine.config import read_base

with read_base():
    from .internvl2_5_1b import *

pretrained = 'pretrained/InternVL3-1B'
pretrained_repo = 'OpenGVLab/InternVL3-1B'
