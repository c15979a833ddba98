"""InternVL2.5-1B on food photos: language model and projector trained whole, vision tower frozen.

16 samples a step on one GPU of 24 GB: about 15 GiB at the peak (`--dry-run` adds it up).

    mmft train internvl2_5_1b_food_full
"""

from mmengine.config import read_base

with read_base():
    from .._base_.data.food import *
    from .._base_.models.internvl2_5_1b import *
    from .._base_.runtime import *
    from .._base_.schedules.full import *

# 6 tiles and a thumbnail, at most 1,792 image tokens, as in InternVL's own fine-tuning. An export keeps this limit.
encoder.update(image_processor=dict(max_tiles=6), max_length=4096)
train_dataloader.update(batch_size=4)
optim_wrapper.update(accumulative_counts=4)
