"""SigLIP-so400m/14 at 384 px: 27 x 27 = 729 patches of width 1152, no class token; 413 million parameters.

google/siglip-so400m-patch14-384, without its pooling head.
"""

vision = dict(
    type='SigLIP',
    hidden_size=1152,
    num_hidden_layers=27,
    num_attention_heads=16,
    intermediate_size=4304,
    image_size=384,
    patch_size=14,
    hidden_act='gelu_pytorch_tanh',
    layer_norm_eps=1e-6,
    # The last block but one. TinyLLaVA Factory drops the first patch; `drop_first=True` reads its checkpoints.
    select_layer=-2,
)
pixels = dict(pixel_mean=(0.5, 0.5, 0.5), pixel_std=(0.5, 0.5, 0.5))
