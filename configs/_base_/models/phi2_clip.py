"""Phi-2 with CLIP-L/336: 3.09 billion parameters, a picture is 576 tokens."""

from mmengine.config import read_base

with read_base():
    from ..llms.phi2 import llm
    from ..towers.clip_l_336 import pixels, vision
    from .llava import *

model.update(vision=vision, llm=llm, **pixels)
encoder.update(
    template='phi',
    image_processor=dict(type='PadSquare', tile_size=336, mean=pixels['pixel_mean']),
)

pretrained.update(vision='pretrained/clip-vit-large-patch14-336', llm='pretrained/phi-2')
pretrained_repo.update(vision='openai/clip-vit-large-patch14-336', llm='microsoft/phi-2')
del llm, pixels, vision
