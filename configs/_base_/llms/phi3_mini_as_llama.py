"""Phi-3-mini-4k-instruct as a Llama, its packed weights split: 3.82 billion parameters.

XTuner publishes it so. Microsoft's own directory is a `Phi3`, with a window of 2,047 tokens.
"""

llm = dict(
    type='Llama',
    vocab_size=32064,
    hidden_size=3072,
    intermediate_size=8192,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=32,
    max_position_embeddings=4096,
    rms_norm_eps=1e-5,
    rope_theta=10000.0,
    bos_token_id=1,
    eos_token_id=32000,
    pad_token_id=32000,
)
