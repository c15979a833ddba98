"""LLaVA-1.5-HD with flat tiles, 7B, stage one, alignment: the projector alone learns, on 558k captions.

256 samples a step on 8 GPUs of 40 GB: about 26 GiB each at the peak (`--dry-run` adds it up).

    torchrun --nproc_per_node=8 tools/train.py llava15_hd_flat_7b_align
"""

from mmengine.config import read_base

with read_base():
    from .._base_.data.llava_align import *
    from .._base_.models.llava15_hd_flat_7b import *
    from .._base_.runtime_long import *
    from .._base_.schedules.llava_align import *

encoder.update(template='plain')
train_dataloader.update(batch_size=8)
optim_wrapper.update(accumulative_counts=4)  # 8 x 4 x 8 GPUs = 256 samples
