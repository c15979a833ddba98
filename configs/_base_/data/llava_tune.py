"""LLaVA-1.5's instruction mix of 665k (liuhaotian/LLaVA-Instruct-150K): COCO, GQA, OCR-VQA, TextVQA, Visual Genome.

Its picture folders lie in data/llava (docs/recipes.md shows the tree). Check the set, which writes train.jsonl::

    mmft data llava_mix data/llava/llava_v1_5_mix665k.json data/llava
"""

from mmengine.config import read_base

with read_base():
    from .chat import *

train_dataloader.update(dataset=dict(ann_file='data/llava/llava_v1_5_mix665k/train.jsonl', image_root='data/llava'))
val_dataloader = None
