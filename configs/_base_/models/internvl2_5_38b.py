"""InternVL2.5-38B: InternViT-6B-448px-V2_5 + Qwen2.5-32B-Instruct, 38.4 billion parameters.

InternVL2_5-38B-MPO has the same architecture:

    --cfg-options pretrained=pretrained/InternVL2_5-38B-MPO pretrained_repo=OpenGVLab/InternVL2_5-38B-MPO
"""

from mmengine.config import read_base

with read_base():
    from ..llms.qwen2_5 import llm
    from ..towers.internvit_6b import vision
    from .internvl2 import *

llm.update(
    hidden_size=5120,
    intermediate_size=27648,
    num_hidden_layers=64,
    num_attention_heads=40,
    num_key_value_heads=8,
)
model.update(vision=vision, llm=llm)
encoder.update(template='internvl2_5')

pretrained = 'pretrained/InternVL2_5-38B'
pretrained_repo = 'OpenGVLab/InternVL2_5-38B'
del llm, vision
