"""Phi-2 with SigLIP-so400m-384: 3.20 billion parameters, a picture is 729 tokens."""

from mmengine.config import read_base

with read_base():
    from ..llms.phi2 import llm
    from ..towers.siglip_so400m_384 import pixels, vision
    from .llava import *

model.update(vision=vision, llm=llm, **pixels)
encoder.update(
    template='phi',
    image_processor=dict(type='PadSquare', tile_size=384, mean=pixels['pixel_mean']),
)

pretrained.update(vision='pretrained/siglip-so400m-patch14-384', llm='pretrained/phi-2')
pretrained_repo.update(vision='google/siglip-so400m-patch14-384', llm='microsoft/phi-2')
del llm, pixels, vision
