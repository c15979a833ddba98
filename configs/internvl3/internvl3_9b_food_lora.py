"""InternVL3-9B on food photos: LoRA on the language model, projector trained, vision tower frozen.

16 samples a step on one GPU of 48 GB: about 34 GiB at the peak (`--dry-run` adds it up).

    mmft train internvl3_9b_food_lora
"""

from mmengine.config import read_base

with read_base():
    from .._base_.data.food import *
    from .._base_.models.internvl3_9b import *
    from .._base_.runtime import *
    from .._base_.schedules.lora import *

# 12 tiles and a thumbnail, at most 3,328 image tokens, as in InternVL3's own fine-tuning. An export keeps this limit.
encoder.update(image_processor=dict(max_tiles=12), max_length=8192)
train_dataloader.update(batch_size=2)
optim_wrapper.update(accumulative_counts=8)
