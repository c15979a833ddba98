"""CLIP-L/14 at 224 px: the tower of LLaVA-1.5-HD. 16 x 16 = 256 patches of width 1024.

openai/clip-vit-large-patch14.
"""

from mmengine.config import read_base

with read_base():
    from .clip_l_336 import *

vision.update(image_size=224)
