"""TinyLlama-1.1B-Chat v1.0, 1.10 billion parameters (TinyLlama/TinyLlama-1.1B-Chat-v1.0)."""

llm = dict(
    type='Llama',
    vocab_size=32000,
    hidden_size=2048,
    intermediate_size=5632,
    num_hidden_layers=22,
    num_attention_heads=32,
    num_key_value_heads=4,
    max_position_embeddings=2048,
    rms_norm_eps=1e-5,
    rope_theta=10000.0,
    bos_token_id=1,
    eos_token_id=2,
)
