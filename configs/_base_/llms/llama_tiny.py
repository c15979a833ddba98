"""A Llama-type language model that two CPU cores can train from nothing, 1.6 million parameters: of `make demo`.

Its tokenizer is tools/demo_food/tokenizer.
"""

llm = dict(
    type='Llama',
    vocab_size=1024,
    hidden_size=192,
    intermediate_size=480,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=3,
    max_position_embeddings=1024,
    rms_norm_eps=1e-5,
    # Wider than the usual 0.02, which is for wide models: learning starts twice as fast.
    initializer_range=0.07,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)
