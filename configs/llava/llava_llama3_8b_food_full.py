"""XTuner's LLaVA on Llama 3 on food photos, trained as XTuner did: language model and projector whole, tower by LoRA.

16 samples a step on 8 GPUs of 40 GB: about 22 GiB each at the peak (`--dry-run` adds it up).

    torchrun --nproc_per_node=8 tools/train.py llava_llama3_8b_food_full
"""

from mmengine.config import read_base

with read_base():
    from .._base_.data.food import *
    from .._base_.models.llava_llama3_8b import *
    from .._base_.runtime import *
    from .._base_.schedules.llava_full import *

tune.update(vision=dict(type='lora', r=64, alpha=16, dropout=0.05))
train_dataloader.update(batch_size=2)  # x 1 x 8 GPUs = 16 samples
train_cfg.update(max_epochs=3)
