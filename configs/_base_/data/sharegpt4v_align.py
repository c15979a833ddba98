"""ShareGPT4V's 1.2 million long captions for alignment (Lin-Chen/ShareGPT4V): COCO, LLaVA's LCS pictures, SAM.

Its picture folders lie in data/sharegpt4v (docs/recipes.md shows the tree). Check the set, which writes train.jsonl::

    mmft data sharegpt4v data/sharegpt4v/share-captioner_coco_lcs_sam_1246k_1107.json data/sharegpt4v
"""

from mmengine.config import read_base

with read_base():
    from .chat import *

train_dataloader.update(
    dataset=dict(
        ann_file='data/sharegpt4v/share-captioner_coco_lcs_sam_1246k_1107/train.jsonl', image_root='data/sharegpt4v'
    )
)
val_dataloader = None
