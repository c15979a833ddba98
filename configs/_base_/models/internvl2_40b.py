"""InternVL2-40B: InternViT-6B-448px-V1-5 + Nous-Hermes-2-Yi-34B, 40.1 billion parameters.

Yi-34B's sizes from 01-ai's published config. `vocab_size`, its 64,000 tokens and the nine of InternVL, is not confirmed
from the published file; a run compares it with the directory.
"""

from mmengine.config import read_base

with read_base():
    from ..towers.internvit_6b import vision
    from .internvl2 import *

model.update(
    vision=vision,
    llm=dict(
        type='Llama',
        vocab_size=64009,
        hidden_size=7168,
        intermediate_size=20480,
        num_hidden_layers=60,
        num_attention_heads=56,
        num_key_value_heads=8,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
        rope_theta=5000000.0,
        bos_token_id=1,
        eos_token_id=7,
        pad_token_id=0,
    ),
)
encoder.update(template='Hermes-2')

pretrained = 'pretrained/InternVL2-40B'
pretrained_repo = 'OpenGVLab/InternVL2-40B'
del vision
