"""LLaVA-1.5-HD with Vicuna-7B (arXiv:2310.03744, section 3.4): up to six tiles of 224 px and the whole picture.

The features of all tiles form one map; what padding covers is cut off, each row ends with a learned newline: at most
1,888 tokens. No weights of it were published: it starts from CLIP and Vicuna.
"""

from mmengine.config import read_base

with read_base():
    from ..towers.clip_l_224 import vision
    from .vicuna_7b_clip import *

model.update(vision=vision, merge=dict(type='AnyResMerge', unpad=True, newline=True))
encoder.update(max_length=4096)
# Width x height in px of every grid of up to six tiles.
encoder['image_processor'] = dict(
    type='AnyResTiler',
    mode='spatial_unpad',
    tile_size=224,
    grid_pinpoints=[
        [224, 224], [224, 448], [448, 224], [224, 672], [672, 224], [448, 448], [224, 896], [896, 224],
        [224, 1120], [1120, 224], [224, 1344], [1344, 224], [448, 672], [672, 448],
    ],
)  # fmt: skip

pretrained.update(vision='pretrained/clip-vit-large-patch14')
pretrained_repo.update(vision='openai/clip-vit-large-patch14')
del vision
