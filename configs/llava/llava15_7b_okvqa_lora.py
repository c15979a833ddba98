"""LLaVA-1.5-7B on OK-VQA: LoRA of rank 128 at 2e-4, the projector at 2e-5, 20 epochs, ZeRO-3.

Twenty epochs are enough to learn the set by heart: best.pth is the one that answered the validation questions best.
128 samples a step on 8 GPUs of 24 GB: about 18 GiB each at the peak (`--dry-run` adds it up).

    torchrun --nproc_per_node=8 tools/train.py llava15_7b_okvqa_lora
"""

from mmengine.config import read_base

with read_base():
    from .._base_.data.okvqa import *
    from .._base_.models.llava15_7b import *
    from .._base_.runtime import *
    from .._base_.schedules.llava_lora import *

train_dataloader.update(batch_size=16)  # x 1 x 8 GPUs = 128 samples
train_cfg.update(max_epochs=20)
deepspeed = 'zero3'
# Answers are a word or two, and ten people gave them. best.pth goes by the first metric.
val_cfg.update(max_samples=1000, max_new_tokens=16, metrics=['vqa_accuracy', 'exact_match'])
