"""TinyLlama-1.1B-Chat with DINOv2-L: 1.41 billion parameters, a picture is 576 tokens."""

from mmengine.config import read_base

with read_base():
    from ..llms.tinyllama_1_1b import llm
    from ..towers.dinov2_l import pixels, vision
    from .llava import *

model.update(vision=vision, llm=llm, **pixels)
encoder.update(
    template='vicuna_v1',
    image_processor=dict(type='PadSquare', tile_size=336, mean=pixels['pixel_mean']),
)

pretrained.update(vision='pretrained/dinov2-large', llm='pretrained/TinyLlama-1.1B-Chat-v1.0')
pretrained_repo.update(vision='facebook/dinov2-large', llm='TinyLlama/TinyLlama-1.1B-Chat-v1.0')
del llm, pixels, vision
