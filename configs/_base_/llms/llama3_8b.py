"""Llama-3-8B-Instruct, 8.03 billion parameters (meta-llama/Meta-Llama-3-8B-Instruct)."""

llm = dict(
    type='Llama',
    vocab_size=128256,
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    max_position_embeddings=8192,
    rms_norm_eps=1e-5,
    rope_theta=500000.0,
    bos_token_id=128000,
    eos_token_id=128001,
)
