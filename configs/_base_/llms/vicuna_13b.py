"""Vicuna-13B v1.5, 13.0 billion parameters (lmsys/vicuna-13b-v1.5)."""

from mmengine.config import read_base

with read_base():
    from .vicuna_7b import *

llm.update(
    hidden_size=5120,
    intermediate_size=13824,
    num_hidden_layers=40,
    num_attention_heads=40,
    num_key_value_heads=40,
)
