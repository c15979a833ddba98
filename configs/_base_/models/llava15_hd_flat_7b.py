"""LLaVA-1.5-HD with flat tiles (`mm_patch_merge_type` 'flat'): all patches of all tiles, one tile after the other.

No merge, nothing cut off, no newline: at most 7 x 256 = 1,792 tokens.
"""

from mmengine.config import read_base

with read_base():
    from .llava15_hd_7b import *

model.pop('merge')
encoder.update(image_processor=dict(mode='flat'))
