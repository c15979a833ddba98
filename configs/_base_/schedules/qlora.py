"""QLoRA (arXiv:2305.14314): as lora.py, the language model's frozen weights in 4 bits (`pip install '.[qlora]'`)."""

from mmengine.config import read_base

with read_base():
    from .lora import *

tune.update(llm=dict(type='qlora'))
