"""LLaVA's 558k captions for alignment (liuhaotian/LLaVA-Pretrain), one picture and one caption each.

Unpack images.zip into data/llava_pretrain/images and check the set, which writes train.jsonl::

    mmft data llava_mix data/llava_pretrain/blip_laion_cc_sbu_558k.json data/llava_pretrain/images
"""

from mmengine.config import read_base

with read_base():
    from .chat import *

train_dataloader.update(
    dataset=dict(
        ann_file='data/llava_pretrain/blip_laion_cc_sbu_558k/train.jsonl', image_root='data/llava_pretrain/images'
    )
)
val_dataloader = None
