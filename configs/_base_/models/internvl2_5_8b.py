"""InternVL2.5-8B: InternViT-300M-448px-V2_5 + internlm2_5-7b-chat, 8.08 billion parameters; InternVL2-8B's sizes.

Its rope scaling is not confirmed from the published file; a run compares it with the directory.

InternVL2_5-8B-MPO has the same architecture:

    --cfg-options pretrained=pretrained/InternVL2_5-8B-MPO pretrained_repo=OpenGVLab/InternVL2_5-8B-MPO
"""

from mmengine.config import read_base

with read_base():
    from .internvl2_8b import *

encoder.update(template='internvl2_5')

pretrained = 'pretrained/InternVL2_5-8B'
pretrained_repo = 'OpenGVLab/InternVL2_5-8B'
