"""MiniCPM-2B-dpo, 2.72 billion parameters (openbmb/MiniCPM-2B-dpo-bf16).

A Llama with three scales: of embeddings, of what each block adds, and of logits.
"""

llm = dict(
    type='MiniCPM',
    vocab_size=122753,
    hidden_size=2304,
    intermediate_size=5760,
    num_hidden_layers=40,
    num_attention_heads=36,
    num_key_value_heads=36,
    max_position_embeddings=4096,
    rms_norm_eps=1e-5,
    rope_theta=10000.0,
    scale_emb=12,
    scale_depth=1.4,
    dim_model_base=256,
    tie_word_embeddings=True,
    bos_token_id=1,
    eos_token_id=2,
)
