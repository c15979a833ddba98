"""Qwen2-0.5B-Instruct with SigLIP-so400m-384: 909 million parameters, a picture is 729 tokens."""

from mmengine.config import read_base

with read_base():
    from ..llms.qwen2_0_5b import llm
    from ..towers.siglip_so400m_384 import pixels, vision
    from .llava import *

model.update(vision=vision, llm=llm, **pixels)
encoder.update(
    template='qwen2',
    image_processor=dict(type='PadSquare', tile_size=384, mean=pixels['pixel_mean']),
)

pretrained.update(vision='pretrained/siglip-so400m-patch14-384', llm='pretrained/Qwen2-0.5B-Instruct')
pretrained_repo.update(vision='google/siglip-so400m-patch14-384', llm='Qwen/Qwen2-0.5B-Instruct')
del llm, pixels, vision
