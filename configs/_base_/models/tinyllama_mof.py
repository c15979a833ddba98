"""TinyLlama-1.1B-Chat with a mixture of features, CLIP-L/336 beside DINOv2-L: 1.72 billion parameters.

Both towers see the same picture; each has an MLP of its own and their tokens take turns (arXiv:2401.06209): 1,152
tokens. DINOv2 sees pixels in CLIP's normalisation.
"""

from mmengine.config import read_base

with read_base():
    from ..towers.dinov2_l import vision as dinov2
    from .tinyllama_clip import *

model['vision'] = dict(type='MoFTower', towers=[model['vision'], dinov2])
model['projector'] = dict(type='MoFMLP', in_dims=[1024, 1024], depth=2, act='gelu')

pretrained['vision'] = ['pretrained/clip-vit-large-patch14-336', 'pretrained/dinov2-large']
pretrained_repo['vision'] = ['openai/clip-vit-large-patch14-336', 'facebook/dinov2-large']
del dinov2
