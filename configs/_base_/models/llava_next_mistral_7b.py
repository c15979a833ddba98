"""LLaVA-NeXT (1.6) of Mistral-7B-Instruct v0.2 as published: 7.57 billion parameters, up to 2,928 tokens a picture."""

from mmengine.config import read_base

with read_base():
    from ..llms.mistral_7b import llm
    from .llava_next_vicuna_7b import *

llm.update(vocab_size=32064, pad_token_id=32001)
model['llm'] = llm
encoder.update(template='mistral')

pretrained = 'pretrained/llava-v1.6-mistral-7b-hf'
pretrained_repo = 'llava-hf/llava-v1.6-mistral-7b-hf'
del llm
