"""InternVL3.5-1B: InternViT-300M-448px-V2_5 + Qwen3-0.6B, 1.06 billion parameters."""

from mmengine.config import read_base

with read_base():
    from ..llms.qwen3 import llm
    from .internvl2 import *

llm.update(
    hidden_size=1024,
    intermediate_size=3072,
    num_hidden_layers=28,
    num_attention_heads=16,
)
model.update(llm=llm)
encoder.update(template='internvl2_5')

pretrained = 'pretrained/InternVL3_5-1B'
pretrained_repo = 'OpenGVLab/InternVL3_5-1B'
del llm
