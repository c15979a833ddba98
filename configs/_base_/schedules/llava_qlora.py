"""As llava_lora.py, the language model's frozen weights in 4 bits (arXiv:2305.14314; `pip install '.[qlora]'`)."""

from mmengine.config import read_base

with read_base():
    from .llava_lora import *

tune.update(llm=dict(type='qlora'))
