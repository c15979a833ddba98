"""LLaVA-OneVision-7B on food photos: every weight trained, as in its own last stage.

16 samples a step on 8 GPUs of 40 GB: about 28 GiB each at the peak (`--dry-run` adds it up).

    torchrun --nproc_per_node=8 tools/train.py llava_onevision_7b_food_full --deepspeed zero3
"""

from mmengine.config import read_base

with read_base():
    from .._base_.data.food import *
    from .._base_.models.llava_onevision_7b import *
    from .._base_.runtime import *
    from .._base_.schedules.llava_onevision import *

train_dataloader.update(batch_size=1)
optim_wrapper.update(accumulative_counts=2)  # 1 x 2 x 8 GPUs = 16 samples
train_cfg.update(max_epochs=3)
