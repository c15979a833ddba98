"""InternVL3-8B: InternViT-300M-448px-V2_5 + Qwen2.5-7B, 7.94 billion parameters."""

from mmengine.config import read_base

with read_base():
    from ..llms.qwen2_5 import llm
    from .internvl2 import *

llm.update(
    hidden_size=3584,
    intermediate_size=18944,
    num_hidden_layers=28,
    num_attention_heads=28,
    num_key_value_heads=4,
)
model.update(llm=llm)
encoder.update(template='internvl2_5')

pretrained = 'pretrained/InternVL3-8B'
pretrained_repo = 'OpenGVLab/InternVL3-8B'
del llm
