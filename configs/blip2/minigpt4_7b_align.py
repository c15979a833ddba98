"""MiniGPT-4's design with Vicuna-7B, alignment: the linear map alone learns, on 558k captions.

256 samples a step on 8 GPUs of 40 GB: about 22 GiB each at the peak (`--dry-run` adds it up).

    torchrun --nproc_per_node=8 tools/train.py minigpt4_7b_align
"""

from mmengine.config import read_base

with read_base():
    from .._base_.data.llava_align import *
    from .._base_.models.minigpt4_7b import *
    from .._base_.runtime_long import *
    from .._base_.schedules.llava_align import *

encoder.update(template='plain')
train_dataloader.update(batch_size=32)  # x 1 x 8 GPUs = 256 samples
# MiniGPT-4's rate and decay.
optim_wrapper.update(optimizer=dict(lr=1e-4, weight_decay=0.05))
