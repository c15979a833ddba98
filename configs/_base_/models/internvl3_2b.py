"""InternVL3-2B: InternViT-300M-448px-V2_5 + Qwen2.5-1.5B, 2.09 billion parameters."""

from mmengine.config import read_base

with read_base():
    from ..llms.qwen2_5 import llm
    from .internvl2 import *

llm.update(
    hidden_size=1536,
    intermediate_size=8960,
    num_hidden_layers=28,
    num_attention_heads=12,
    num_key_value_heads=2,
)
model.update(llm=llm)
encoder.update(template='internvl2_5')

pretrained = 'pretrained/InternVL3-2B'
pretrained_repo = 'OpenGVLab/InternVL3-2B'
del llm
