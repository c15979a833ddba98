"""InternVL3.5-14B: InternViT-300M-448px-V2_5 + Qwen3-14B, 15.1 billion parameters."""

from mmengine.config import read_base

with read_base():
    from ..llms.qwen3 import llm
    from .internvl2 import *

llm.update(
    hidden_size=5120,
    intermediate_size=17408,
    num_hidden_layers=40,
    num_attention_heads=40,
)
model.update(llm=llm)
encoder.update(template='internvl2_5')

pretrained = 'pretrained/InternVL3_5-14B'
pretrained_repo = 'OpenGVLab/InternVL3_5-14B'
del llm
