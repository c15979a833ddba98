"""OK-VQA (okvqa.allenai.org): questions about COCO pictures that need knowledge from outside the picture.

Question and annotation files in data/okvqa, COCO's pictures in data/coco::

    mmft data okvqa data/okvqa data/coco --type other --answers most_common
"""

from mmengine.config import read_base

with read_base():
    from .chat import *

train_dataloader.update(dataset=dict(ann_file='data/okvqa/train.jsonl', image_root='data/coco'))
val_dataloader.update(dataset=dict(ann_file='data/okvqa/val.jsonl', image_root='data/coco'))
