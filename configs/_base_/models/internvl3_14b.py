"""InternVL3-14B: InternViT-300M-448px-V2_5 + Qwen2.5-14B, 15.1 billion parameters."""

from mmengine.config import read_base

with read_base():
    from ..llms.qwen2_5 import llm
    from .internvl2 import *

llm.update(
    hidden_size=5120,
    intermediate_size=13824,
    num_hidden_layers=48,
    num_attention_heads=40,
    num_key_value_heads=8,
)
model.update(llm=llm)
encoder.update(template='internvl2_5')

pretrained = 'pretrained/InternVL3-14B'
pretrained_repo = 'OpenGVLab/InternVL3-14B'
del llm
