"""InternVL2-1B: InternViT-300M-448px + Qwen2-0.5B-Instruct, 938 million parameters."""

from mmengine.config import read_base

with read_base():
    from .internvl2 import *

model.update(
    llm=dict(
        type='Qwen2',
        vocab_size=151655,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        max_position_embeddings=32768,
        rms_norm_eps=1e-6,
        rope_theta=1000000.0,
        bos_token_id=151643,
        eos_token_id=151645,
        # Qwen2-0.5B ties its embeddings; InternVL2 gives it an output head of its own.
        tie_word_embeddings=False,
    )
)
encoder.update(template='Hermes-2')

pretrained = 'pretrained/InternVL2-1B'
pretrained_repo = 'OpenGVLab/InternVL2-1B'
