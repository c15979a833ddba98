"""CODA-LM (arXiv:2404.10595): corner cases of driving: the scene, single objects in it, and advice to the driver.

CODA2022's pictures in data/coda/val and data/coda/test, annotations in data/coda/CODA-LM::

    mmft data codalm data/coda --draw
"""

from mmengine.config import read_base

with read_base():
    from .chat import *

train_dataloader.update(dataset=dict(ann_file='data/coda/CODA-LM/train.jsonl', image_root='data/coda'))
val_dataloader.update(dataset=dict(ann_file='data/coda/CODA-LM/val.jsonl', image_root='data/coda'))
