"""LLaVA-1.5-7B as an inspector of boxes, OK or not, from ten pictures: LoRA on the language model, projector trained.

One picture a step, ten steps an epoch. So few are soon learnt by heart: keep others for validation and watch its loss.
1 sample a step on one GPU of 40 GB: about 21 GiB at the peak (`--dry-run` adds it up).

    mmft train llava15_7b_boxes_lora

On GPUs of 24 GB: with `--cfg-options tune.llm.type=qlora` about 12 GiB on one; under torchrun on four of them with
ZeRO-3 about 9 GiB each, four samples a step (docs/recipes.md has the commands).
"""

from mmengine.config import read_base

with read_base():
    from .._base_.data.boxes import *
    from .._base_.models.llava15_7b import *
    from .._base_.runtime import *
    from .._base_.schedules.llava_lora import *

train_dataloader.update(batch_size=1, num_workers=0)
val_dataloader.update(batch_size=1, num_workers=0)
optim_wrapper.update(accumulative_counts=1)  # 1 x 1 x 1 GPU = 1 sample
train_cfg.update(max_epochs=10)
default_hooks.update(progress=dict(interval=1))
val_cfg.update(max_new_tokens=32)
