"""A plain vision transformer of timm by name, here ViT-B/16 at 384 px: 24 x 24 = 576 patches of width 768.

timm/vit_base_patch16_384.augreg_in21k_ft_in1k; any other `VisionTransformer` of timm is a `model_name` away.
"""

vision = dict(type='TimmViT', model_name='vit_base_patch16_384', select_layer=-1)
pixels = dict(pixel_mean=(0.5, 0.5, 0.5), pixel_std=(0.5, 0.5, 0.5))
