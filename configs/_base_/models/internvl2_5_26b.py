"""InternVL2.5-26B: InternViT-6B-448px-V2_5 + internlm2_5-20b-chat, 25.5 billion parameters; InternVL2-26B's sizes.

Rope base and scaling are not confirmed from the published file; a run compares them with the directory.

InternVL2_5-26B-MPO has the same architecture:

    --cfg-options pretrained=pretrained/InternVL2_5-26B-MPO pretrained_repo=OpenGVLab/InternVL2_5-26B-MPO
"""

from mmengine.config import read_base

with read_base():
    from .internvl2_26b import *

encoder.update(template='internvl2_5')

pretrained = 'pretrained/InternVL2_5-26B'
pretrained_repo = 'OpenGVLab/InternVL2_5-26B'
