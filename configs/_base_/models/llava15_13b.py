"""LLaVA-1.5-13B as published: CLIP-L/336, two-layer MLP, Vicuna-13B; 13.4 billion parameters, a picture is 576 tokens.

llava-hf's copy, one directory with all parts. liuhaotian/llava-v1.5-13b is read as well; it has Vicuna's own table, and
no tower: put openai/clip-vit-large-patch14-336 beside it.

    --cfg-options pretrained=pretrained/llava-v1.5-13b model.llm.vocab_size=32000 model.llm.pad_token_id=0
"""

from mmengine.config import read_base

with read_base():
    from .vicuna_13b_clip import *

# 64 rows more than Vicuna's: <image>, <pad> and room up to a round number.
model.update(llm=dict(vocab_size=32064, pad_token_id=32001))

pretrained = 'pretrained/llava-1.5-13b-hf'
pretrained_repo = 'llava-hf/llava-1.5-13b-hf'
