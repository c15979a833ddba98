"""InternVL3.5-8B: InternViT-300M-448px-V2_5 + Qwen3-8B, 8.53 billion parameters."""

from mmengine.config import read_base

with read_base():
    from ..llms.qwen3 import llm
    from .internvl2 import *

llm.update(
    hidden_size=4096,
    intermediate_size=12288,
    num_hidden_layers=36,
    num_attention_heads=32,
)
model.update(llm=llm)
encoder.update(template='internvl2_5')

pretrained = 'pretrained/InternVL3_5-8B'
pretrained_repo = 'OpenGVLab/InternVL3_5-8B'
del llm
