"""InternVL2-26B: InternViT-6B-448px-V1-5 + internlm2-chat-20b, 25.5 billion parameters."""

from mmengine.config import read_base

with read_base():
    from ..towers.internvit_6b import vision
    from .internvl2 import *

model.update(
    vision=vision,
    llm=dict(
        type='InternLM2',
        vocab_size=92553,
        hidden_size=6144,
        intermediate_size=16384,
        num_hidden_layers=48,
        num_attention_heads=48,
        num_key_value_heads=8,
        max_position_embeddings=32768,
        rms_norm_eps=1e-5,
        rope_theta=1000000.0,
        # Only beyond max_position_embeddings.
        rope_scaling=dict(type='dynamic', factor=3.0),
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    ),
)
encoder.update(template='internlm2-chat')

pretrained = 'pretrained/InternVL2-26B'
pretrained_repo = 'OpenGVLab/InternVL2-26B'
del vision
