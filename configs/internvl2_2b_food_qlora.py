"""InternVL2-2B on food photos: LoRA on a language model in 4 bits, projector trained, vision tower frozen.

16 samples a step on one GPU of 12 GB: about 8 GiB at the peak (`--dry-run` adds it up).

    mmft train internvl2_2b_food_qlora
"""

from mmengine.config import read_base

with read_base():
    from ._base_.data.food import *
    from ._base_.models.internvl2_2b import *
    from ._base_.runtime import *
    from ._base_.schedules.qlora import *

# 6 tiles and a thumbnail, at most 1,792 image tokens, as in InternVL's own fine-tuning. An export keeps this limit.
encoder.update(image_processor=dict(max_tiles=6), max_length=4096)
train_dataloader.update(batch_size=2)
optim_wrapper.update(accumulative_counts=8)
