"""Pictures of boxes in data/boxes/OK and data/boxes/NG, a folder per class::

python tools/data/folder.py data/boxes --wording en-inspection --val 0.2
"""

from mmengine.config import read_base

with read_base():
    from .chat import *

train_dataloader.update(dataset=dict(ann_file='data/boxes/train.jsonl', image_root='data/boxes'))
val_dataloader.update(dataset=dict(ann_file='data/boxes/val.jsonl', image_root='data/boxes'))
