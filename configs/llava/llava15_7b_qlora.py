"""LLaVA-1.5-7B, stage two by LoRA on a language model in 4 bits, on the mix of 665k.

128 samples a step on one GPU of 24 GB: about 14 GiB at the peak (`--dry-run` adds it up),
19 with samples of 2,048 tokens.

    mmft train llava15_7b_qlora
"""

from mmengine.config import read_base

with read_base():
    from .._base_.data.llava_tune import *
    from .._base_.models.vicuna_7b_clip import *
    from .._base_.runtime_long import *
    from .._base_.schedules.llava_qlora import *

# Or LLaVA's own: mm_projector.bin of liuhaotian/llava-v1.5-mlp2x-336px-pretrain-vicuna-7b-v1.5.
init_from = 'work_dirs/llava15_7b_align'
train_dataloader.update(batch_size=4)
optim_wrapper.update(accumulative_counts=32)  # 4 x 32 x 1 GPU = 128 samples
