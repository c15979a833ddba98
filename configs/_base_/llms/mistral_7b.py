"""Mistral-7B-Instruct v0.2, 7.24 billion parameters (mistralai/Mistral-7B-Instruct-v0.2)."""

llm = dict(
    type='Mistral',
    vocab_size=32000,
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    max_position_embeddings=32768,
    sliding_window=None,
    rms_norm_eps=1e-5,
    rope_theta=1000000.0,
    bos_token_id=1,
    eos_token_id=2,
)
