"""InternViT-6B-448px, V1-5 and V2_5: 5.54 billion parameters (OpenGVLab/InternViT-6B-448px-V1-5, -V2_5)."""

vision = dict(
    hidden_size=3200,
    num_hidden_layers=45,
    num_attention_heads=25,
    intermediate_size=12800,
    qkv_bias=False,
    qk_normalization=True,
    norm_type='rms_norm',
    initializer_factor=0.1,
)
