"""LLaVA-OneVision-0.5B (ov) as published: SigLIP-so400m-384 + Qwen2-0.5B-Instruct; 894 million parameters.

A picture alone is cut into up to 36 tiles of 384 px beside its whole, whose plane is shrunk to what 9 tiles are: up to
8,800 tokens. Each of several pictures is one tile, 730 tokens. llava-hf's copy, one directory with all parts.
"""

from mmengine.config import read_base

with read_base():
    from .qwen2_0_5b_siglip import *

model.update(
    # The output of block 26 of 27, above which llava-hf's copy has none.
    vision=dict(num_hidden_layers=26, select_layer=-1),
    merge=dict(type='AnyResMerge', unpad=True, newline=True, shrink_to=9),
    # 64 rows more than Qwen2's: <image>, <video> and room up to a round number.
    llm=dict(vocab_size=152000),
)
encoder.update(max_length=32768)
encoder['image_processor'] = dict(type='OneVisionTiler', tile_size=384, shrink_to=9, mean=model['pixel_mean'])

pretrained = 'pretrained/llava-onevision-qwen2-0.5b-ov-hf'
pretrained_repo = 'llava-hf/llava-onevision-qwen2-0.5b-ov-hf'
