"""XTuner's LLaVA on Phi-3-mini on food photos, trained as XTuner did: everything whole, the tower too.

16 samples a step on 8 GPUs of 24 GB: about 13 GiB each at the peak (`--dry-run` adds it up).

    torchrun --nproc_per_node=8 tools/train.py llava_phi3_mini_food_full
"""

from mmengine.config import read_base

with read_base():
    from .._base_.data.food import *
    from .._base_.models.llava_phi3_mini import *
    from .._base_.runtime import *
    from .._base_.schedules.llava_full import *

tune.update(vision='full')
train_dataloader.update(batch_size=2)  # x 1 x 8 GPUs = 16 samples
train_cfg.update(max_epochs=3)
