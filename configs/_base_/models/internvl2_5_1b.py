"""InternVL2.5-1B: InternViT-300M-448px-V2_5 + Qwen2.5-0.5B-Instruct, 938 million parameters.

InternVL2_5-1B-MPO has the same architecture:

    --cfg-options pretrained=pretrained/InternVL2_5-1B-MPO pretrained_repo=OpenGVLab/InternVL2_5-1B-MPO
"""

from mmengine.config import read_base

with read_base():
    from ..llms.qwen2_5 import llm
    from .internvl2 import *

llm.update(
    hidden_size=896,
    intermediate_size=4864,
    num_hidden_layers=24,
    num_attention_heads=14,
    num_key_value_heads=2,
)
model.update(llm=llm)
encoder.update(template='internvl2_5')

pretrained = 'pretrained/InternVL2_5-1B'
pretrained_repo = 'OpenGVLab/InternVL2_5-1B'
del llm
