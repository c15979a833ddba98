"""Pictures of boxes, a folder per class: the ten in data/boxes/train/OK and NG, others in data/boxes/val/OK and NG.

    mmft data folder data/boxes --wording en-inspection

Or all in data/boxes/OK and NG, and `--val 0.2` sets a fifth of them apart.
"""

from mmengine.config import read_base

with read_base():
    from .chat import *

train_dataloader.update(dataset=dict(ann_file='data/boxes/train.jsonl', image_root='data/boxes'))
val_dataloader.update(dataset=dict(ann_file='data/boxes/val.jsonl', image_root='data/boxes'))
