"""XTuner's LLaVA on Llama-3-8B-Instruct as published: 8.36 billion parameters, a picture is 576 tokens.

Its copy for transformers. The one in LLaVA's form, which XTuner calls -hf, has Llama 3's own table:

    --cfg-options pretrained=pretrained/llava-llama-3-8b-v1_1-hf model.llm.vocab_size=128256
"""

from mmengine.config import read_base

with read_base():
    from ..llms.llama3_8b import llm
    from .llava15_7b import *

llm.update(vocab_size=128320)  # 64 rows more: <unk>, <image>, <pad> and room up to a round number
model['llm'] = llm
encoder.update(template='llama3', max_length=4096)

pretrained = 'pretrained/llava-llama-3-8b-v1_1-transformers'
pretrained_repo = 'xtuner/llava-llama-3-8b-v1_1-transformers'
del llm
