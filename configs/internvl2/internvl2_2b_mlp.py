"""InternVL2-2B, the original's stage one: the MLP alone learns, on 558k captions.

It starts from the published model, whose language model has rows for InternVL's tokens; the original starts from
InternViT-300M-448px, the bare language model and a new MLP. internvl2_2b_joint starts from its result.
512 samples a step on 8 GPUs of 16 GB: about 12 GiB each at the peak (`--dry-run` adds it up).

    torchrun --nproc_per_node=8 tools/train.py internvl2_2b_mlp
"""

from mmengine.config import read_base

with read_base():
    from .._base_.data.llava_align import *
    from .._base_.models.internvl2_2b import *
    from .._base_.runtime_long import *
    from .._base_.schedules.internvl_mlp import *

train_dataloader.update(batch_size=4, collate=dict(loss_reduction='square'))  # x 16 x 8 GPUs = 512 samples
optim_wrapper.update(accumulative_counts=16, optimizer=dict(weight_decay=0.01))
