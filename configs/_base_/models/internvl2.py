"""What all InternVL2, 2.5, 3 and 3.5 share, and the InternViT-300M of the smaller ones. Not a model: it has no LLM.

Numbers: config.json of OpenGVLab/InternVL2-* and OpenGVLab/InternViT-300M-448px; InternVL2_5-2B and InternVL3-1B have
the same, also max_dynamic_patch.
"""

model = dict(
    type='VLM',
    vision=dict(
        type='InternViT',
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
        image_size=448,
        patch_size=14,
        qkv_bias=True,
        qk_normalization=False,
        norm_type='layer_norm',
        layer_norm_eps=1e-6,
        # 0.1 (InternViT-6B: 0.4) is InternVL's value where the tower is trained; a frozen tower drops nothing.
        drop_path_rate=0.0,
    ),
    projector=dict(type='PixelShuffleMLP', scale=0.5, version='v2'),
)

# Of frozen weights. Trained weights are float32 and computed in `optim_wrapper.dtype`.
dtype = 'bfloat16'

encoder = dict(
    type='ChatEncoder',
    # A tile of 448 px is 32 x 32 patches, and 16 x 16 = 256 tokens after the pixel shuffle.
    image_processor=dict(type='DynamicTiler', tile_size=448, min_tiles=1, max_tiles=12, thumbnail=True),
    # Transparent pictures are laid on it; None drops their alpha, as the originals do.
    background='white',
    max_length=4096,
)
