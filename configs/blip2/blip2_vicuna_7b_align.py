"""BLIP-2's design with Vicuna-7B, alignment: Q-Former and linear map learn on COCO captions, ViT and LLM are frozen.

256 samples a step on 8 GPUs of 40 GB: about 24 GiB each at the peak (`--dry-run` adds it up).

    torchrun --nproc_per_node=8 tools/train.py blip2_vicuna_7b_align
"""

from mmengine.config import read_base

with read_base():
    from .._base_.data.coco_captions import *
    from .._base_.models.blip2_vicuna_7b import *
    from .._base_.runtime_long import *
    from .._base_.schedules.llava_align import *

encoder.update(template='plain')
train_dataloader.update(batch_size=32)  # x 1 x 8 GPUs = 256 samples
# BLIP-2's rate and decay.
optim_wrapper.update(optimizer=dict(lr=1e-4, weight_decay=0.05))
# Captions are never answered word for word: the best checkpoint has the least loss.
default_hooks.update(checkpoint=dict(save_best='loss'))
