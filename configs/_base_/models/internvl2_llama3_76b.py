"""InternVL2-Llama3-76B: InternViT-6B-448px-V1-5 + Hermes-2-Theta-Llama-3-70B, 76.3 billion parameters.

Llama-3-70B's sizes from Meta's published config. `vocab_size`, its 128,256 tokens and the nine of InternVL, and the
template are not confirmed from the published file; a run compares them with the directory.
"""

from mmengine.config import read_base

with read_base():
    from ..towers.internvit_6b import vision
    from .internvl2 import *

model.update(
    vision=vision,
    llm=dict(
        type='Llama',
        vocab_size=128265,
        hidden_size=8192,
        intermediate_size=28672,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        rope_theta=500000.0,
        bos_token_id=128000,
        eos_token_id=128003,
    ),
)
encoder.update(template='Hermes-2')

pretrained = 'pretrained/InternVL2-Llama3-76B'
pretrained_repo = 'OpenGVLab/InternVL2-Llama3-76B'
del vision
