"""Experiment 22 of 22, instruction tuning: Phi-2 + CLIP-L/336 + MLP.

Projector and language model learn, on ShareGPT4V's mix; the tower is frozen as stage one left it.
128 samples a step on 8 GPUs of 40 GB: about 15 GiB each at the peak (`--dry-run` adds it up),
24 with samples of 2,048 tokens.

    torchrun --nproc_per_node=8 tools/train.py exp22_tune
"""

from mmengine.config import read_base

with read_base():
    from .._base_.data.sharegpt4v_tune import *
    from .._base_.models.phi2_clip import *
    from .._base_.runtime_long import *
    from .._base_.schedules.llava_full import *

dtype = 'float16'
init_from = 'work_dirs/exp22_align'
train_dataloader.update(batch_size=16)  # x 1 x 8 GPUs = 128 samples
optim_wrapper.update(dtype='float16', accumulative_counts=1, optimizer=dict(lr=2e-5))
