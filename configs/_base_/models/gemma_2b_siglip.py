"""Gemma-2B-it with SigLIP-so400m-384: 2.93 billion parameters, a picture is 729 tokens."""

from mmengine.config import read_base

with read_base():
    from ..llms.gemma_2b import llm
    from ..towers.siglip_so400m_384 import pixels, vision
    from .llava import *

model.update(vision=vision, llm=llm, **pixels)
encoder.update(
    template='gemma',
    image_processor=dict(type='PadSquare', tile_size=384, mean=pixels['pixel_mean']),
)

pretrained.update(vision='pretrained/siglip-so400m-patch14-384', llm='pretrained/gemma-2b-it')
pretrained_repo.update(vision='google/siglip-so400m-patch14-384', llm='google/gemma-2b-it')
del llm, pixels, vision
