"""StableLM-2-zephyr-1.6B with CLIP-L/336: 1.95 billion parameters, a picture is 576 tokens."""

from mmengine.config import read_base

with read_base():
    from ..llms.stablelm2_1_6b import llm
    from ..towers.clip_l_336 import pixels, vision
    from .llava import *

model.update(vision=vision, llm=llm, **pixels)
encoder.update(
    template='stablelm',
    image_processor=dict(type='PadSquare', tile_size=336, mean=pixels['pixel_mean']),
)

pretrained.update(vision='pretrained/clip-vit-large-patch14-336', llm='pretrained/stablelm-2-zephyr-1_6b')
pretrained_repo.update(vision='openai/clip-vit-large-patch14-336', llm='stabilityai/stablelm-2-zephyr-1_6b')
del llm, pixels, vision
