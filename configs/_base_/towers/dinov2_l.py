"""DINOv2-L/14, 304 million parameters: patches of width 1024, 24 x 24 = 576 of them from a picture of 336 px.

facebook/dinov2-large. Its position table is of 518 px; other sides interpolate it.
"""

vision = dict(
    type='DINOv2',
    hidden_size=1024,
    num_hidden_layers=24,
    num_attention_heads=16,
    intermediate_size=4096,
    image_size=518,
    patch_size=14,
    hidden_act='gelu',
    layer_norm_eps=1e-6,
    layerscale_value=1.0,
    select_layer=-1,
)
pixels = dict(pixel_mean=(0.485, 0.456, 0.406), pixel_std=(0.229, 0.224, 0.225))
