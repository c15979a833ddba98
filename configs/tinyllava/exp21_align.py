"""Experiment 21 of 22, alignment: Phi-2 + CLIP-L/336 + MLP.

The projector alone learns, on LLaVA-1.5's captions.
256 samples a step on 8 GPUs of 24 GB: about 20 GiB each at the peak (`--dry-run` adds it up).

    torchrun --nproc_per_node=8 tools/train.py exp21_align
"""

from mmengine.config import read_base

with read_base():
    from .._base_.data.llava_align import *
    from .._base_.models.phi2_clip import *
    from .._base_.runtime_long import *
    from .._base_.schedules.llava_align import *

encoder.update(template='plain')
# The whole picture as CLIP's own processor crops it; only the second stage pads.
encoder['image_processor'] = dict(type='CenterCrop', tile_size=336)
dtype = 'float16'
train_dataloader.update(batch_size=32)  # x 1 x 8 GPUs = 256 samples
optim_wrapper.update(dtype='float16', accumulative_counts=1, optimizer=dict(lr=1e-3))
