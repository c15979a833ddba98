"""Qwen2-0.5B-Instruct with InternViT-300M: 803 million parameters, a picture is 256 tokens."""

from mmengine.config import read_base

with read_base():
    from ..llms.qwen2_0_5b import llm
    from ..towers.internvit_300m import pixels, vision
    from .llava import *

model.update(vision=vision, llm=llm, **pixels)
model['projector'] = dict(type='PixelShuffleMLP', scale=0.5, version='v2')
encoder.update(
    template='qwen2',
    image_processor=dict(type='PadSquare', tile_size=448, mean=pixels['pixel_mean']),
)

pretrained.update(vision='pretrained/InternViT-300M-448px', llm='pretrained/Qwen2-0.5B-Instruct')
pretrained_repo.update(vision='OpenGVLab/InternViT-300M-448px', llm='Qwen/Qwen2-0.5B-Instruct')
del llm, pixels, vision
