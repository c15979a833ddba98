"""LLaVA-1.5-7B, stage one, alignment: the projector alone learns, on 558k captions.

Its projector is where llava15_7b_full, _lora and _qlora start.
256 samples a step on 8 GPUs of 40 GB: about 32 GiB each at the peak (`--dry-run` adds it up).

    torchrun --nproc_per_node=8 tools/train.py llava15_7b_align
"""

from mmengine.config import read_base

with read_base():
    from .._base_.data.llava_align import *
    from .._base_.models.vicuna_7b_clip import *
    from .._base_.runtime_long import *
    from .._base_.schedules.llava_align import *

encoder.update(template='plain')
# The whole picture as CLIP's own processor crops it; only the second stage pads.
encoder['image_processor'] = dict(type='CenterCrop', tile_size=336)
train_dataloader.update(batch_size=32)  # x 1 x 8 GPUs = 256 samples
