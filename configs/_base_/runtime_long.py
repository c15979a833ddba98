"""As runtime.py, for one epoch of hours: a checkpoint every 1000 steps besides the one at the end."""

from mmengine.config import read_base

with read_base():
    from .runtime import *

default_hooks.update(checkpoint=dict(interval=1000, by_epoch=False))
