"""TinyLlama-1.1B-Chat with CLIP-L/336 and a mixture-of-experts projector: four MLPs, each patch goes through two."""

from mmengine.config import read_base

with read_base():
    from .tinyllama_clip import *

# `balance_loss`, 0.01 times the Switch Transformer's, is added to the loss and logged by its name.
model['projector'] = dict(type='MoEMLP', num_experts=4, top_k=2, depth=2, act='gelu', balance_coef=0.01)
