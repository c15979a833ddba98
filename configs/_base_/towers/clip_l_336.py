"""CLIP-L/14 at 336 px, 303 million parameters: LLaVA-1.5's tower. 24 x 24 = 576 patches of width 1024.

openai/clip-vit-large-patch14-336.
"""

vision = dict(
    type='CLIP',
    hidden_size=1024,
    num_hidden_layers=24,
    num_attention_heads=16,
    intermediate_size=4096,
    image_size=336,
    patch_size=14,
    hidden_act='quick_gelu',
    layer_norm_eps=1e-5,
    # The last block but one, without the class token, as LLaVA takes it.
    select_layer=-2,
    select_feature='patch',
)
pixels = dict(
    pixel_mean=(0.48145466, 0.4578275, 0.40821073),
    pixel_std=(0.26862954, 0.26130258, 0.27577711),
)
