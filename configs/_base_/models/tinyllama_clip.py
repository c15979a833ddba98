"""TinyLlama-1.1B-Chat with CLIP-L/336: 1.41 billion parameters, a picture is 576 tokens."""

from mmengine.config import read_base

with read_base():
    from ..llms.tinyllama_1_1b import llm
    from ..towers.clip_l_336 import pixels, vision
    from .llava import *

model.update(vision=vision, llm=llm, **pixels)
encoder.update(
    template='vicuna_v1',
    image_processor=dict(type='PadSquare', tile_size=336, mean=pixels['pixel_mean']),
)

pretrained.update(vision='pretrained/clip-vit-large-patch14-336', llm='pretrained/TinyLlama-1.1B-Chat-v1.0')
pretrained_repo.update(vision='openai/clip-vit-large-patch14-336', llm='TinyLlama/TinyLlama-1.1B-Chat-v1.0')
del llm, pixels, vision
