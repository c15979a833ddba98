"""InternVL2-2B: InternViT-300M-448px + internlm2-chat-1_8b, 2.21 billion parameters."""

from mmengine.config import read_base

with read_base():
    from .internvl2 import *

model.update(
    llm=dict(
        type='InternLM2',
        vocab_size=92553,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=24,
        num_attention_heads=16,
        num_key_value_heads=8,
        max_position_embeddings=32768,
        rms_norm_eps=1e-5,
        rope_theta=1000000.0,
        # Only beyond max_position_embeddings.
        rope_scaling=dict(type='dynamic', factor=2.0),
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
)
encoder.update(template='internlm2-chat')

pretrained = 'pretrained/InternVL2-2B'
pretrained_repo = 'OpenGVLab/InternVL2-2B'
