"""LLaVA-NeXT (1.6) of Vicuna-7B as published: 7.06 billion parameters, a picture is up to 2,928 tokens.

The picture is cut into up to four tiles of 336 px beside its whole; what padding covers is cut off again, and each row
of the map ends with a learned newline. llava-hf's copy, one directory with all parts.
"""

from mmengine.config import read_base

with read_base():
    from .llava15_7b import *

model.update(merge=dict(type='AnyResMerge', unpad=True, newline=True))
encoder.update(max_length=4096)
encoder['image_processor'] = dict(
    type='AnyResTiler',
    mode='spatial_unpad',
    tile_size=336,
    # Width x height in px.
    grid_pinpoints=[[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
)

pretrained = 'pretrained/llava-v1.6-vicuna-7b-hf'
pretrained_repo = 'llava-hf/llava-v1.6-vicuna-7b-hf'
