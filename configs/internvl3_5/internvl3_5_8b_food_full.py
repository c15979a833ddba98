"""InternVL3.5-8B on food photos: language model and projector trained whole, vision tower frozen.

16 samples a step on 8 GPUs of 48 GB: about 38 GiB each at the peak (`--dry-run` adds it up).

    torchrun --nproc_per_node=8 tools/train.py internvl3_5_8b_food_full --deepspeed zero2
"""

from mmengine.config import read_base

with read_base():
    from .._base_.data.food import *
    from .._base_.models.internvl3_5_8b import *
    from .._base_.runtime import *
    from .._base_.schedules.full import *

# 12 tiles and a thumbnail, at most 3,328 image tokens, as in InternVL3.5's own fine-tuning. An export keeps this limit.
encoder.update(image_processor=dict(max_tiles=12), max_length=8192)
train_dataloader.update(batch_size=2)
optim_wrapper.update(accumulative_counts=1)
