"""LLaVA-1.5-7B on CODA-LM, corner cases of driving: LoRA on the language model, projector trained.

Every epoch is kept whole, so that each can be exported and judged.
32 samples a step on one GPU of 40 GB: about 23 GiB at the peak (`--dry-run` adds it up).

    mmft train llava15_7b_codalm_lora
"""

from mmengine.config import read_base

with read_base():
    from .._base_.data.coda_lm import *
    from .._base_.models.llava15_7b import *
    from .._base_.runtime import *
    from .._base_.schedules.llava_lora import *

train_dataloader.update(batch_size=4)
optim_wrapper.update(accumulative_counts=8)  # 4 x 8 x 1 GPU = 32 samples
train_cfg.update(max_epochs=5)
# iter_N.pth at the end of each epoch, none is deleted. Descriptions never match word for word: least loss is best.
default_hooks.update(checkpoint=dict(interval=1, by_epoch=True, max_keep_ckpts=-1, save_best='loss'))
# Descriptions are long.
val_cfg.update(max_samples=50, max_new_tokens=512)
