"""MiniCPM-2B-dpo with CLIP-L/336: 3.04 billion parameters, a picture is 576 tokens."""

from mmengine.config import read_base

with read_base():
    from ..llms.minicpm_2b import llm
    from ..towers.clip_l_336 import pixels, vision
    from .llava import *

model.update(vision=vision, llm=llm, **pixels)
# MiniCPM's own chat form has no system prompt and Chinese role marks; LLaVA's is used, as with any other base.
encoder.update(
    template='vicuna_v1',
    image_processor=dict(type='PadSquare', tile_size=336, mean=pixels['pixel_mean']),
)

pretrained.update(vision='pretrained/clip-vit-large-patch14-336', llm='pretrained/MiniCPM-2B-dpo-bf16')
pretrained_repo.update(vision='openai/clip-vit-large-patch14-336', llm='openbmb/MiniCPM-2B-dpo-bf16')
del llm, pixels, vision
