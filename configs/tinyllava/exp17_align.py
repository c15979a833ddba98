"""Experiment 17 of 22, alignment: StableLM-2-1.6B + SigLIP-384 + MLP.

The tower from layer 12 on, projector and language model learn, on ShareGPT4V's captions.
256 samples a step on 8 GPUs of 40 GB: about 22 GiB each at the peak (`--dry-run` adds it up).

    torchrun --nproc_per_node=8 tools/train.py exp17_align
"""

from mmengine.config import read_base

with read_base():
    from .._base_.data.sharegpt4v_align import *
    from .._base_.models.stablelm2_siglip import *
    from .._base_.runtime_long import *
    from .._base_.schedules.llava_align_open import *

encoder.update(template='plain')
# The whole picture stretched, as SigLIP's own processor does; only the second stage pads.
encoder['image_processor'] = dict(type='Resize', tile_size=384)
tune.update(vision=dict(from_layer=12))
train_dataloader.update(batch_size=32)  # x 1 x 8 GPUs = 256 samples
# As published. Where the loss rises take 2e-5, the rate of the other experiments that open all parts.
optim_wrapper.update(dtype='bfloat16', accumulative_counts=1, optimizer=dict(lr=1e-3))
