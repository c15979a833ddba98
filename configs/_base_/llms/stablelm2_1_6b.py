"""StableLM 2 Zephyr 1.6B, 1.64 billion parameters (stabilityai/stablelm-2-zephyr-1_6b)."""

llm = dict(
    type='StableLM',
    vocab_size=100352,
    hidden_size=2048,
    intermediate_size=5632,
    num_hidden_layers=24,
    num_attention_heads=32,
    num_key_value_heads=32,
    max_position_embeddings=4096,
    layer_norm_eps=1e-5,
    use_qkv_bias=True,
    # Rotary positions turn a quarter of each head's channels.
    partial_rotary_factor=0.25,
    rope_theta=10000.0,
    bos_token_id=100257,
    eos_token_id=100257,
)
