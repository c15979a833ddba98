"""BLIP-2's design (arXiv:2301.12597) before Vicuna-7B: ViT-g, Q-Former, one linear map; a picture is 32 tokens.

ViT and Q-Former start from BLIP-2's weights, the map to Vicuna's width anew (BLIP-2's own leads to OPT or T5).
"""

from mmengine.config import read_base

with read_base():
    from ..llms.vicuna_7b import llm
    from ..towers.blip2_vit_g import pixels, vision
    from .llava import *

model.update(vision=vision, llm=llm, **pixels)
# `vision_norm` is the norm behind BLIP-2's tower.
model['projector'] = dict(type='QFormer', num_queries=32, vision_norm=1e-6)
encoder.update(template='vicuna_v1', image_processor=dict(type='Resize', tile_size=224))

pretrained.update(
    vision='pretrained/blip2-opt-2.7b', projector='pretrained/blip2-opt-2.7b', llm='pretrained/vicuna-7b-v1.5'
)
pretrained_repo.update(
    vision='Salesforce/blip2-opt-2.7b', projector='Salesforce/blip2-opt-2.7b', llm='lmsys/vicuna-7b-v1.5'
)
del llm, pixels, vision
