"""InternVL2.5-2B: InternViT-300M-448px-V2_5 + internlm2_5-1_8b-chat, 2.21 billion parameters; InternVL2-2B's sizes.

InternVL2_5-2B-MPO has the same architecture:

    --cfg-options pretrained=pretrained/InternVL2_5-2B-MPO pretrained_repo=OpenGVLab/InternVL2_5-2B-MPO
"""

from mmengine.config import read_base

with read_base():
    from .internvl2_2b import *

encoder.update(template='internvl2_5')

pretrained = 'pretrained/InternVL2_5-2B'
pretrained_repo = 'OpenGVLab/InternVL2_5-2B'
