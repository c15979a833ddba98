"""Experiment 16 of 22, instruction tuning: StableLM-2-1.6B + SigLIP-384 + MLP.

Projector and language model learn, on LLaVA-1.5's mix.
128 samples a step on 8 GPUs of 24 GB: about 12 GiB each at the peak (`--dry-run` adds it up),
16 with samples of 2,048 tokens.

    torchrun --nproc_per_node=8 tools/train.py exp16_tune
"""

from mmengine.config import read_base

with read_base():
    from .._base_.data.llava_tune import *
    from .._base_.models.stablelm2_siglip import *
    from .._base_.runtime_long import *
    from .._base_.schedules.llava_full import *

init_from = 'work_dirs/exp16_align'
train_dataloader.update(batch_size=16)  # x 1 x 8 GPUs = 128 samples
optim_wrapper.update(dtype='bfloat16', accumulative_counts=1, optimizer=dict(lr=2e-5))
