"""Phi-2, 2.78 billion parameters (microsoft/phi-2)."""

llm = dict(
    type='Phi',
    vocab_size=51200,
    hidden_size=2560,
    intermediate_size=10240,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=32,
    max_position_embeddings=2048,
    hidden_act='gelu_new',
    layer_norm_eps=1e-5,
    # Of Phi-2's own config: dropout behind attention and MLP, where it is trained.
    resid_pdrop=0.1,
    # Rotary positions turn 32 of each head's 80 channels.
    partial_rotary_factor=0.4,
    rope_theta=10000.0,
    bos_token_id=50256,
    eos_token_id=50256,
)
