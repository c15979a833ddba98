"""Every weight of language model and projector trained, the vision tower frozen, as InternVL's own full fine-tuning.

To open the tower too, from its layer 12 on and ten times slower::

    model.update(vision=dict(drop_path_rate=0.1))
    tune.update(vision=dict(type='full', from_layer=12))
    optim_wrapper.update(paramwise_cfg=dict(parts=dict(vision=dict(lr_mult=0.1))))
"""

from mmengine.config import read_base

with read_base():
    from .adamw_cosine import *

tune = dict(vision='frozen', projector='full', llm='full')
