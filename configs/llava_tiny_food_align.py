"""LLaVA-tiny on food pictures, stage one, alignment: captions only, the tower opened from its layer 2 on.

ShareGPT4V's recipe: upper half of the tower, projector and language model learn together.
``llava_tiny_food_tune.py`` goes on from it; `make demo-llava` runs both and gives its own pictures on the command line.
"""

from mmengine.config import read_base

with read_base():
    from ._base_.data.food import *
    from ._base_.models.llava_tiny import *
    from ._base_.runtime import *
    from ._base_.schedules.llava_align_open import *

# Of a question only its picture remains; the answer is the caption.
encoder.update(template='plain')
train_dataloader.update(batch_size=8, num_workers=0)
val_dataloader = None
tune.update(vision=dict(from_layer=2))
optim_wrapper.update(dtype='float32', accumulative_counts=1, optimizer=dict(lr=6e-4))
gradient_checkpointing = False
deepspeed = None
train_cfg.update(max_epochs=3)
default_hooks.update(answers=None)
