"""LLaVA-tiny on food pictures, stage two, instruction tuning: LoRA on language model and tower, projector trained.

`make demo-llava` gives its own pictures on the command line.
"""

from mmengine.config import read_base

with read_base():
    from ._base_.data.food import *
    from ._base_.models.llava_tiny import *
    from ._base_.runtime import *
    from ._base_.schedules.llava_lora import *

init_from = 'work_dirs/demo_llava/align_run'
train_dataloader.update(batch_size=8, num_workers=0)
val_dataloader.update(batch_size=16, num_workers=0)
tune.update(vision=dict(type='lora', r=16, alpha=32), llm=dict(r=16, alpha=32))
optim_wrapper.update(
    dtype='float32',
    accumulative_counts=1,
    optimizer=dict(lr=8e-4),
    paramwise_cfg=dict(parts=dict(projector=dict(lr=2e-4))),
)
gradient_checkpointing = False
