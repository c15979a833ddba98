"""LLaVA-NeXT (1.6) of Vicuna-13B as published: 13.4 billion parameters, a picture is up to 2,928 tokens."""

from mmengine.config import read_base

with read_base():
    from ..llms.vicuna_13b import llm
    from .llava_next_vicuna_7b import *

llm.update(vocab_size=32064, pad_token_id=32001)
model.update(llm=llm)

pretrained = 'pretrained/llava-v1.6-vicuna-13b-hf'
pretrained_repo = 'llava-hf/llava-v1.6-vicuna-13b-hf'
del llm
