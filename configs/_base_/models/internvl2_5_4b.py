"""InternVL2.5-4B: InternViT-300M-448px-V2_5 + Qwen2.5-3B-Instruct, 3.71 billion parameters.

InternVL2_5-4B-MPO has the same architecture:

    --cfg-options pretrained=pretrained/InternVL2_5-4B-MPO pretrained_repo=OpenGVLab/InternVL2_5-4B-MPO
"""

from mmengine.config import read_base

with read_base():
    from ..llms.qwen2_5 import llm
    from .internvl2 import *

llm.update(
    hidden_size=2048,
    intermediate_size=11008,
    num_hidden_layers=36,
    num_attention_heads=16,
    num_key_value_heads=2,
)
model.update(llm=llm)
encoder.update(template='internvl2_5')

pretrained = 'pretrained/InternVL2_5-4B'
pretrained_repo = 'OpenGVLab/InternVL2_5-4B'
del llm
