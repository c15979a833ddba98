"""LoRA (arXiv:2106.09685) on the language model, the projector trained, the vision tower frozen.

InternVL's own script takes rank 16 at a peak rate of 4e-5 and scale alpha / r = 2. Rate and scale are kept; rank 128
has room for names of things, not only for a style of answering. A few thousand samples want three epochs: watch the
validation loss, the best checkpoint is kept.
"""

from mmengine.config import read_base

with read_base():
    from .adamw_cosine import *

tune = dict(vision='frozen', projector='full', llm=dict(type='lora', r=128, alpha=256, dropout=0.05))
train_cfg.update(max_epochs=3)
