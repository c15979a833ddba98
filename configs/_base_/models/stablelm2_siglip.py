"""StableLM-2-zephyr-1.6B with SigLIP-so400m-384: 2.06 billion parameters, a picture is 729 tokens."""

from mmengine.config import read_base

with read_base():
    from ..llms.stablelm2_1_6b import llm
    from ..towers.siglip_so400m_384 import pixels, vision
    from .llava import *

model.update(vision=vision, llm=llm, **pixels)
encoder.update(
    template='stablelm',
    image_processor=dict(type='PadSquare', tile_size=384, mean=pixels['pixel_mean']),
)

pretrained.update(vision='pretrained/siglip-so400m-patch14-384', llm='pretrained/stablelm-2-zephyr-1_6b')
pretrained_repo.update(vision='google/siglip-so400m-patch14-384', llm='stabilityai/stablelm-2-zephyr-1_6b')
del llm, pixels, vision
