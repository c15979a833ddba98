"""LLaVA-OneVision-7B on food photos: LoRA on the language model, projector trained, vision tower frozen.

16 samples a step on one GPU of 40 GB: about 32 GiB at the peak (`--dry-run` adds it up).

    mmft train llava_onevision_7b_food_lora
"""

from mmengine.config import read_base

with read_base():
    from .._base_.data.food import *
    from .._base_.models.llava_onevision_7b import *
    from .._base_.runtime import *
    from .._base_.schedules.llava_lora import *

train_dataloader.update(batch_size=1)
optim_wrapper.update(accumulative_counts=16)  # 1 x 16 x 1 GPU = 16 samples
train_cfg.update(max_epochs=3)
