"""Experiment 6 of 22, alignment: TinyLlama-1.1B + CLIP-L/336 + MLP.

The tower from layer 12 on, projector and language model learn, on ShareGPT4V's captions.
256 samples a step on 8 GPUs of 16 GB: about 13 GiB each at the peak (`--dry-run` adds it up).

    torchrun --nproc_per_node=8 tools/train.py exp06_align
"""

from mmengine.config import read_base

with read_base():
    from .._base_.data.sharegpt4v_align import *
    from .._base_.models.tinyllama_clip import *
    from .._base_.runtime_long import *
    from .._base_.schedules.llava_align_open import *

encoder.update(template='plain')
# The whole picture as CLIP's own processor crops it; only the second stage pads.
encoder['image_processor'] = dict(type='CenterCrop', tile_size=336)
init_from = 'work_dirs/exp04_align'  # its projector
dtype = 'float16'
tune.update(vision=dict(from_layer=12))
train_dataloader.update(batch_size=16)  # x 2 x 8 GPUs = 256 samples
optim_wrapper.update(dtype='float16', accumulative_counts=2, optimizer=dict(lr=2e-5))
