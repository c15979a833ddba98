"""XTuner's LLaVA on Phi-3-mini-4k-instruct as published: 4.14 billion parameters, a picture is 576 tokens.

Its copy for transformers. The one in LLaVA's form is read as well:

    --cfg-options pretrained=pretrained/llava-phi-3-mini
"""

from mmengine.config import read_base

with read_base():
    from ..llms.phi3_mini_as_llama import llm
    from .llava15_7b import *

model['llm'] = llm  # its table has rows to spare: <image> and <pad> are two of them
encoder.update(template='phi3', max_length=4096)

pretrained = 'pretrained/llava-phi-3-mini-hf'
pretrained_repo = 'xtuner/llava-phi-3-mini-hf'
del llm
