"""LLaVA-1.5-7B, stage two by LoRA: rank 128 at 2e-4, the projector at 2e-5, on the mix of 665k.

128 samples a step on 8 GPUs of 48 GB: about 18 GiB each at the peak (`--dry-run` adds it up),
34 with samples of 2,048 tokens.

    torchrun --nproc_per_node=8 tools/train.py llava15_7b_lora
"""

from mmengine.config import read_base

with read_base():
    from .._base_.data.llava_tune import *
    from .._base_.models.vicuna_7b_clip import *
    from .._base_.runtime_long import *
    from .._base_.schedules.llava_lora import *

# Or LLaVA's own: mm_projector.bin of liuhaotian/llava-v1.5-mlp2x-336px-pretrain-vicuna-7b-v1.5.
init_from = 'work_dirs/llava15_7b_align'
train_dataloader.update(batch_size=16)  # x 1 x 8 GPUs = 128 samples
deepspeed = 'zero3'
