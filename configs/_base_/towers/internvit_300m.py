"""InternViT-300M-448px, InternVL2's tower: 32 x 32 = 1,024 patches of width 1024.

OpenGVLab/InternViT-300M-448px.
"""

vision = dict(
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
)
pixels = dict(pixel_mean=(0.485, 0.456, 0.406), pixel_std=(0.229, 0.224, 0.225))
