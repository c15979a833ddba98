"""FoodieQA (arXiv:2406.11030), unpacked in data/foodieqa and converted there by ``mmft data foodieqa``.

Its terms exclude training models on it: read them, or name pictures of your own, in any config or with
``--cfg-options train_dataloader.dataset.ann_file=... train_dataloader.dataset.image_root=...``.
"""

from mmengine.config import read_base

with read_base():
    from .chat import *

train_dataloader.update(dataset=dict(ann_file='data/foodieqa/train.jsonl', image_root='data/foodieqa'))
val_dataloader.update(dataset=dict(ann_file='data/foodieqa/val.jsonl', image_root='data/foodieqa'))
