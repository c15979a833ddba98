"""LLaVA-1.5-13B, stage two by LoRA on a language model in 4 bits, on the mix of 665k.

128 samples a step on one GPU of 40 GB: about 20 GiB at the peak (`--dry-run` adds it up),
22 with samples of 2,048 tokens.

    mmft train llava15_13b_qlora
"""

from mmengine.config import read_base

with read_base():
    from .._base_.data.llava_tune import *
    from .._base_.models.vicuna_13b_clip import *
    from .._base_.runtime_long import *
    from .._base_.schedules.llava_qlora import *

# Or LLaVA's own: mm_projector.bin of liuhaotian/llava-v1.5-mlp2x-336px-pretrain-vicuna-13b-v1.5.
init_from = 'work_dirs/llava15_13b_align'
train_dataloader.update(batch_size=2)
optim_wrapper.update(accumulative_counts=64)  # 2 x 64 x 1 GPU = 128 samples
