"""The base of `make demo`: every weight trained from nothing on drawn still lifes and six ordinary dishes.

Paths are those of a clone: run it from there, as `make demo` does.
"""

from mmengine.config import read_base

with read_base():
    from ._base_.data.chat import *
    from ._base_.models.internvl2_tiny import *
    from ._base_.runtime import *
    from ._base_.schedules.full import *

pretrained = None
tune.update(vision='full')
gradient_checkpointing = False
encoder.update(tokenizer='tools/demo_food/tokenizer')

train_dataloader.update(
    batch_size=16,
    num_workers=0,
    dataset=dict(ann_file='data/demo_food/base.jsonl', image_root='data/demo_food'),
)
val_dataloader = None
optim_wrapper.update(dtype='float32', accumulative_counts=1, optimizer=dict(lr=8e-4, betas=(0.9, 0.98)))
train_cfg.update(max_epochs=3)
default_hooks.update(checkpoint=dict(interval=0), answers=None)
