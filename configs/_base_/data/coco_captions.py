"""COCO captions (cocodataset.org), pictures and annotations in data/coco::

mmft data coco_captions data/coco
"""

from mmengine.config import read_base

with read_base():
    from .chat import *

train_dataloader.update(dataset=dict(ann_file='data/coco/captions/train.jsonl', image_root='data/coco'))
val_dataloader.update(dataset=dict(ann_file='data/coco/captions/val.jsonl', image_root='data/coco'))
