"""InternVL2-Llama3-76B on food photos: language model and projector trained whole, vision tower frozen.

16 samples a step on 16 GPUs of 141 GB: about 86 GiB each at the peak (`--dry-run` adds it up).

    torchrun --nproc_per_node=16 tools/train.py internvl2_llama3_76b_food_full --deepspeed zero3
"""

from mmengine.config import read_base

with read_base():
    from .._base_.data.food import *
    from .._base_.models.internvl2_llama3_76b import *
    from .._base_.runtime import *
    from .._base_.schedules.full import *

# 6 tiles and a thumbnail, at most 1,792 image tokens, as in InternVL's own fine-tuning. An export keeps this limit.
encoder.update(image_processor=dict(max_tiles=6), max_length=4096)
train_dataloader.update(batch_size=1)
# InternVL's script for this size halves the rate of the smaller ones.
optim_wrapper.update(accumulative_counts=1, optimizer=dict(lr=2e-5))
