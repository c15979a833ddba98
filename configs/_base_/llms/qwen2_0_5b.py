"""Qwen2-0.5B-Instruct, 494 million parameters (Qwen/Qwen2-0.5B-Instruct)."""

llm = dict(
    type='Qwen2',
    vocab_size=151936,
    hidden_size=896,
    intermediate_size=4864,
    num_hidden_layers=24,
    num_attention_heads=14,
    num_key_value_heads=2,
    max_position_embeddings=32768,
    rms_norm_eps=1e-6,
    rope_theta=1000000.0,
    tie_word_embeddings=True,
    bos_token_id=151643,
    eos_token_id=151645,
)
