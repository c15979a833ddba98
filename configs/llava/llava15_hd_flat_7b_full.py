"""LLaVA-1.5-HD with flat tiles, 7B, stage two: projector and language model learn whole, on the mix of 665k.

128 samples a step on 8 GPUs of 40 GB: about 22 GiB each at the peak (`--dry-run` adds it up),
27 with samples of 4,096 tokens.

    torchrun --nproc_per_node=8 tools/train.py llava15_hd_flat_7b_full
"""

from mmengine.config import read_base

with read_base():
    from .._base_.data.llava_tune import *
    from .._base_.models.llava15_hd_flat_7b import *
    from .._base_.runtime_long import *
    from .._base_.schedules.llava_full import *

init_from = 'work_dirs/llava15_hd_flat_7b_align'
train_dataloader.update(batch_size=4)
optim_wrapper.update(accumulative_counts=4)  # 4 x 4 x 8 GPUs = 128 samples
