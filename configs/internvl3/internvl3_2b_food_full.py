"""InternVL3-2B on food photos: language model and projector trained whole, vision tower frozen.

16 samples a step on one GPU of 48 GB: about 36 GiB at the peak (`--dry-run` adds it up).

    mmft train internvl3_2b_food_full
"""

from mmengine.config import read_base

with read_base():
    from .._base_.data.food import *
    from .._base_.models.internvl3_2b import *
    from .._base_.runtime import *
    from .._base_.schedules.full import *

# 12 tiles and a thumbnail, at most 3,328 image tokens, as in InternVL3's own fine-tuning. An export keeps this limit.
encoder.update(image_processor=dict(max_tiles=12), max_length=8192)
train_dataloader.update(batch_size=2)
# As InternVL3's own full fine-tuning.
optim_wrapper.update(accumulative_counts=8, optimizer=dict(lr=2e-5))
