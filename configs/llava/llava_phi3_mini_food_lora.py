"""XTuner's LLaVA on Phi-3-mini on food photos: LoRA on the language model, projector trained, vision tower frozen.

16 samples a step on one GPU of 24 GB: about 15 GiB at the peak (`--dry-run` adds it up).

    mmft train llava_phi3_mini_food_lora
"""

from mmengine.config import read_base

with read_base():
    from .._base_.data.food import *
    from .._base_.models.llava_phi3_mini import *
    from .._base_.runtime import *
    from .._base_.schedules.llava_lora import *

train_dataloader.update(batch_size=2)
optim_wrapper.update(accumulative_counts=8)  # 2 x 8 x 1 GPU = 16 samples
train_cfg.update(max_epochs=3)
