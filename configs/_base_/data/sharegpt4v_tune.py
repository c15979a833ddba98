"""ShareGPT4V's instruction mix (Lin-Chen/ShareGPT4V): LLaVA-1.5's mix with GPT-4V's captions for 23k of its own.

Its picture folders lie in data/sharegpt4v (docs/recipes.md shows the tree). Check the set, which writes train.jsonl::

    mmft data sharegpt4v \\
        data/sharegpt4v/sharegpt4v_mix665k_cap23k_coco-ap9k_lcs3k_sam9k_div2k.json data/sharegpt4v
"""

from mmengine.config import read_base

with read_base():
    from .chat import *

train_dataloader.update(
    dataset=dict(
        ann_file='data/sharegpt4v/sharegpt4v_mix665k_cap23k_coco-ap9k_lcs3k_sam9k_div2k/train.jsonl',
        image_root='data/sharegpt4v',
    )
)
val_dataloader = None
