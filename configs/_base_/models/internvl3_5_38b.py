"""InternVL3.5-38B: InternViT-6B-448px-V2_5 + Qwen3-32B, 38.4 billion parameters."""

from mmengine.config import read_base

with read_base():
    from ..llms.qwen3 import llm
    from ..towers.internvit_6b import vision
    from .internvl2 import *

llm.update(
    hidden_size=5120,
    intermediate_size=25600,
    num_hidden_layers=64,
    num_attention_heads=64,
)
model.update(vision=vision, llm=llm)
encoder.update(template='internvl2_5')

pretrained = 'pretrained/InternVL3_5-38B'
pretrained_repo = 'OpenGVLab/InternVL3_5-38B'
del llm, vision
