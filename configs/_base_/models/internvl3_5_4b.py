"""InternVL3.5-4B: InternViT-300M-448px-V2_5 + Qwen3-4B, 4.73 billion parameters."""

from mmengine.config import read_base

with read_base():
    from ..llms.qwen3 import llm
    from .internvl2 import *

llm.update(
    hidden_size=2560,
    intermediate_size=9728,
    num_hidden_layers=36,
    num_attention_heads=32,
)
model.update(llm=llm)
encoder.update(template='internvl2_5')

pretrained = 'pretrained/InternVL3_5-4B'
pretrained_repo = 'OpenGVLab/InternVL3_5-4B'
del llm
