"""An InternVL2 that two CPU cores can train from nothing: InternViT, pixel shuffle v2, dynamic tiles, a Llama-type LLM.

The model of `make demo`, which makes its weights: 0.9M + 0.1M + 1.6M parameters; a tile of 96 px is 16 tokens.
"""

from mmengine.config import read_base

with read_base():
    from ..llms.llama_tiny import llm

model = dict(
    type='VLM',
    vision=dict(
        type='InternViT',
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=512,
        image_size=96,
        patch_size=12,
        qkv_bias=True,
        qk_normalization=False,
        norm_type='layer_norm',
        layer_norm_eps=1e-6,
        drop_path_rate=0.0,
        # As the language model's: towers of this width learn from nothing far faster than at the usual 0.02.
        initializer_range=0.07,
        # Layer scale at its start. InternViT's 0.1 is for 24 layers and long training.
        initializer_factor=1.0,
    ),
    projector=dict(type='PixelShuffleMLP', scale=0.5, version='v2'),
    llm=llm,
)

# Not every CPU computes in bfloat16, and the model is small.
dtype = 'float32'

encoder = dict(
    type='ChatEncoder',
    template='internlm2-chat',
    image_processor=dict(type='DynamicTiler', tile_size=96, min_tiles=1, max_tiles=2, thumbnail=True),
    # Transparent pictures are laid on it; None drops their alpha, as the originals do.
    background='white',
    max_length=1024,
)

pretrained = 'work_dirs/demo/base'
pretrained_command = 'make demo'
del llm
