"""InternVL2-2B, the original's stage two: ViT, MLP and language model, on LLaVA's 665k instructions.

512 samples a step on 8 GPUs of 40 GB: about 26 GiB each at the peak (`--dry-run` adds it up).

    torchrun --nproc_per_node=8 tools/train.py internvl2_2b_joint
"""

from mmengine.config import read_base

with read_base():
    from .._base_.data.llava_tune import *
    from .._base_.models.internvl2_2b import *
    from .._base_.runtime_long import *
    from .._base_.schedules.internvl_joint import *

model.update(vision=dict(drop_path_rate=0.1))
train_dataloader.update(batch_size=4, collate=dict(loss_reduction='square'))  # x 16 x 8 GPUs = 512 samples
optim_wrapper.update(accumulative_counts=16, optimizer=dict(weight_decay=0.01))
deepspeed = 'zero1'
init_from = 'work_dirs/internvl2_2b_mlp'
