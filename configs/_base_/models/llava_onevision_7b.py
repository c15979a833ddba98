"""LLaVA-OneVision-7B (ov) as published: SigLIP-so400m-384 + Qwen2-7B-Instruct; 8.03 billion parameters."""

from mmengine.config import read_base

with read_base():
    from .llava_onevision_0_5b import *

model.update(
    llm=dict(
        vocab_size=152128,
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        tie_word_embeddings=False,
    )
)

pretrained = 'pretrained/llava-onevision-qwen2-7b-ov-hf'
pretrained_repo = 'llava-hf/llava-onevision-qwen2-7b-ov-hf'
