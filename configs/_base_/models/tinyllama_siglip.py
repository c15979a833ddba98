"""TinyLlama-1.1B-Chat with SigLIP-so400m-384: 1.52 billion parameters, a picture is 729 tokens."""

from mmengine.config import read_base

with read_base():
    from ..llms.tinyllama_1_1b import llm
    from ..towers.siglip_so400m_384 import pixels, vision
    from .llava import *

model.update(vision=vision, llm=llm, **pixels)
encoder.update(
    template='vicuna_v1',
    image_processor=dict(type='PadSquare', tile_size=384, mean=pixels['pixel_mean']),
)

pretrained.update(vision='pretrained/siglip-so400m-patch14-384', llm='pretrained/TinyLlama-1.1B-Chat-v1.0')
pretrained_repo.update(vision='google/siglip-so400m-patch14-384', llm='TinyLlama/TinyLlama-1.1B-Chat-v1.0')
del llm, pixels, vision
