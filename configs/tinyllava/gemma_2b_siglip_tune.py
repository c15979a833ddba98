"""Gemma-2B-it + SigLIP-384 + MLP, instruction tuning.

Projector and language model learn, on LLaVA-1.5's mix.
128 samples a step on 8 GPUs of 40 GB: about 15 GiB each at the peak (`--dry-run` adds it up),
22 with samples of 2,048 tokens.

    torchrun --nproc_per_node=8 tools/train.py gemma_2b_siglip_tune
"""

from mmengine.config import read_base

with read_base():
    from .._base_.data.llava_tune import *
    from .._base_.models.gemma_2b_siglip import *
    from .._base_.runtime_long import *
    from .._base_.schedules.llava_full import *

init_from = 'work_dirs/gemma_2b_siglip_align'
train_dataloader.update(batch_size=16)  # x 1 x 8 GPUs = 128 samples
