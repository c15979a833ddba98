"""Experiment 15 of 22, instruction tuning: Phi-2 + SigLIP-384 + MLP.

Projector and language model learn, the latter by LoRA, on LLaVA-1.5's mix.
128 samples a step on 8 GPUs of 40 GB: about 21 GiB each at the peak (`--dry-run` adds it up),
31 with samples of 2,048 tokens.

    torchrun --nproc_per_node=8 tools/train.py exp15_tune
"""

from mmengine.config import read_base

with read_base():
    from .._base_.data.llava_tune import *
    from .._base_.models.phi2_siglip import *
    from .._base_.runtime_long import *
    from .._base_.schedules.llava_lora import *

dtype = 'float16'
init_from = 'work_dirs/exp15_align'
train_dataloader.update(batch_size=16)  # x 1 x 8 GPUs = 128 samples
optim_wrapper.update(
    dtype='float16',
    accumulative_counts=1,
    optimizer=dict(lr=2e-4),
    paramwise_cfg=dict(parts=dict(projector=dict(lr=2e-5))),
)
