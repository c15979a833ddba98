"""Experiment 8 of 22, instruction tuning: TinyLlama-1.1B + CLIP-L/336 + MoE-MLP.

Its first stage is experiment 6's (tower opened from layer 12 on); each expert starts as a copy of that projector.
Projector and language model learn, on ShareGPT4V's mix.
128 samples a step on 8 GPUs of 24 GB: about 10 GiB each at the peak (`--dry-run` adds it up),
15 with samples of 2,048 tokens.

    torchrun --nproc_per_node=8 tools/train.py exp08_tune
"""

from mmengine.config import read_base

with read_base():
    from .._base_.data.sharegpt4v_tune import *
    from .._base_.models.tinyllama_moe import *
    from .._base_.runtime_long import *
    from .._base_.schedules.llava_full import *

dtype = 'float16'
init_from = 'work_dirs/exp06_align'
train_dataloader.update(batch_size=16)  # x 1 x 8 GPUs = 128 samples
optim_wrapper.update(dtype='float16', accumulative_counts=1, optimizer=dict(lr=2e-5))
