"""Vicuna-7B with CLIP-L/336: 7.06 billion parameters, a picture is 576 tokens."""

from mmengine.config import read_base

with read_base():
    from ..llms.vicuna_7b import llm
    from ..towers.clip_l_336 import pixels, vision
    from .llava import *

model.update(vision=vision, llm=llm, **pixels)
encoder.update(
    template='vicuna_v1',
    image_processor=dict(type='PadSquare', tile_size=336, mean=pixels['pixel_mean']),
)

pretrained.update(vision='pretrained/clip-vit-large-patch14-336', llm='pretrained/vicuna-7b-v1.5')
pretrained_repo.update(vision='openai/clip-vit-large-patch14-336', llm='lmsys/vicuna-7b-v1.5')
del llm, pixels, vision
