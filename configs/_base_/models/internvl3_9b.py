"""InternVL3-9B: InternViT-300M-448px-V2_5 + internlm3-8b-instruct, 9.14 billion parameters.

Numbers: internlm/internlm3-8b-instruct. `vocab_size` of InternVL3-9B itself is not confirmed from the published file; a
run compares it with the directory.
"""

from mmengine.config import read_base

with read_base():
    from .internvl2 import *

model.update(
    llm=dict(
        type='InternLM3',
        vocab_size=128512,
        hidden_size=4096,
        intermediate_size=10240,
        num_hidden_layers=48,
        num_attention_heads=32,
        num_key_value_heads=2,
        head_dim=128,
        max_position_embeddings=32768,
        rms_norm_eps=1e-5,
        rope_theta=50000000.0,
        # Only beyond max_position_embeddings.
        rope_scaling=dict(rope_type='dynamic', factor=6.0),
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
)
encoder.update(template='internvl2_5')

pretrained = 'pretrained/InternVL3-9B'
pretrained_repo = 'OpenGVLab/InternVL3-9B'
