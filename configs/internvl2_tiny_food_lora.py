"""InternVL2-tiny on food pictures: LoRA on the language model, projector trained, vision tower frozen: `make demo`.

``internvl2_2b_food_lora.py`` with another model and other sizes. `make demo` gives its own pictures on the command
line.
"""

from mmengine.config import read_base

with read_base():
    from ._base_.data.food import *
    from ._base_.models.internvl2_tiny import *
    from ._base_.runtime import *
    from ._base_.schedules.lora import *

encoder.update(image_processor=dict(max_tiles=2), max_length=1024)
train_dataloader.update(batch_size=16, num_workers=0)
val_dataloader.update(batch_size=16, num_workers=0)
optim_wrapper.update(dtype='float32', accumulative_counts=1, optimizer=dict(lr=1e-3))
gradient_checkpointing = False
tune.update(llm=dict(r=16, alpha=32))
