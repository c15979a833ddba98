"""InternVL3-38B on food photos: language model and projector trained whole, vision tower frozen.

16 samples a step on 8 GPUs of 141 GB: about 81 GiB each at the peak (`--dry-run` adds it up).

    torchrun --nproc_per_node=8 tools/train.py internvl3_38b_food_full --deepspeed zero3
"""

from mmengine.config import read_base

with read_base():
    from .._base_.data.food import *
    from .._base_.models.internvl3_38b import *
    from .._base_.runtime import *
    from .._base_.schedules.full import *

# 12 tiles and a thumbnail, at most 3,328 image tokens, as in InternVL3's own fine-tuning. An export keeps this limit.
encoder.update(image_processor=dict(max_tiles=12), max_length=8192)
train_dataloader.update(batch_size=1)
# As InternVL3's own full fine-tuning.
optim_wrapper.update(accumulative_counts=2, optimizer=dict(lr=2e-5))
