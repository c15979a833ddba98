"""InternVL2-Llama3-76B on food photos: LoRA on the language model, projector trained, vision tower frozen.

16 samples a step on 8 GPUs of 40 GB: about 31 GiB each at the peak (`--dry-run` adds it up).

    torchrun --nproc_per_node=8 tools/train.py internvl2_llama3_76b_food_lora --deepspeed zero3
"""

from mmengine.config import read_base

with read_base():
    from .._base_.data.food import *
    from .._base_.models.internvl2_llama3_76b import *
    from .._base_.runtime import *
    from .._base_.schedules.lora import *

# 6 tiles and a thumbnail, at most 1,792 image tokens, as in InternVL's own fine-tuning. An export keeps this limit.
encoder.update(image_processor=dict(max_tiles=6), max_length=4096)
train_dataloader.update(batch_size=1)
optim_wrapper.update(accumulative_counts=2)
