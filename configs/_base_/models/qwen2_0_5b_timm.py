"""Qwen2-0.5B-Instruct with ViT-B/16 of timm: 582 million parameters, a picture is 576 tokens."""

from mmengine.config import read_base

with read_base():
    from ..llms.qwen2_0_5b import llm
    from ..towers.timm_vit_b_384 import pixels, vision
    from .llava import *

model.update(vision=vision, llm=llm, **pixels)
encoder.update(
    template='qwen2',
    image_processor=dict(type='PadSquare', tile_size=384, mean=pixels['pixel_mean']),
)

pretrained.update(vision='pretrained/vit_base_patch16_384', llm='pretrained/Qwen2-0.5B-Instruct')
pretrained_repo.update(vision='timm/vit_base_patch16_384.augreg_in21k_ft_in1k', llm='Qwen/Qwen2-0.5B-Instruct')
del llm, pixels, vision
