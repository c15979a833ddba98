"""A LLaVA-1.5 that two CPU cores can train from nothing: CLIP, a two-layer MLP, a Llama-type LLM.

The model of `make demo-llava`, which makes its weights: 1.1M + 0.1M + 1.6M parameters; a picture is 36 tokens.
"""

from mmengine.config import read_base

with read_base():
    from ..llms.llama_tiny import llm
    from ..towers.clip_l_336 import pixels
    from .llava import *

model.update(
    vision=dict(
        type='CLIP',
        hidden_size=128,
        num_hidden_layers=5,
        num_attention_heads=4,
        intermediate_size=512,
        image_size=96,
        patch_size=16,
        hidden_act='quick_gelu',
        layer_norm_eps=1e-5,
        select_layer=-2,
        select_feature='patch',
        # CLIP's start, doubled: at this width towers learn from nothing far faster than at 1.
        initializer_factor=2.0,
    ),
    # 64 rows more than its tokenizer's, as llava-hf's: <image> and room.
    llm=dict(llm, vocab_size=1088),
    **pixels,
)

# Not every CPU computes in bfloat16, and the model is small.
dtype = 'float32'

encoder.update(
    # LLaVA-1.6's with Mistral: the shortest of the family, without a system prompt.
    template='mistral',
    image_processor=dict(type='CenterCrop', tile_size=96),
    max_length=512,
)

pretrained = 'work_dirs/demo_llava/base'
pretrained_repo = None
pretrained_command = 'make demo-llava'
del llm, pixels
