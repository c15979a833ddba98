"""The EVA-CLIP ViT-g/14 of BLIP-2 and MiniGPT-4, 986 million parameters: 16 x 16 + 1 tokens of width 1408 at 224 px.

In timm's names it is a `vit_giant_patch14_224` of 39 blocks; the norm behind them is the Q-Former's `vision_norm`.
"""

vision = dict(
    type='TimmViT',
    model_name='vit_giant_patch14_224',
    depth=39,
    final_norm=False,
    select_layer=-1,
    # BLIP-2's Q-Former reads the class token too.
    select_feature='cls_patch',
)
pixels = dict(
    pixel_mean=(0.48145466, 0.4578275, 0.40821073),
    pixel_std=(0.26862954, 0.26130258, 0.27577711),
)
