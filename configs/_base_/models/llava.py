"""What LLaVA and all models of its design share. Not a model by itself: it has neither tower nor language model.

`<tower>` and `<llm>` come from ``_base_/towers`` and ``_base_/llms``; ``vicuna_7b_clip.py`` shows how.
Another projector is one line, ``model['projector'] = dict(type='QFormer', num_queries=32)``: see docs/models.md.
"""

model = dict(
    type='VLM',
    # `mlp2x_gelu` of the originals.
    projector=dict(type='MLP', depth=2, act='gelu'),
)

# Of frozen weights. Trained weights are float32 and computed in `optim_wrapper.dtype`.
dtype = 'bfloat16'

encoder = dict(
    type='ChatEncoder',
    # A picture's place, with nothing around it. The tokenizers of plain language models have to be given it.
    image_token='<image>',
    image_start='',
    image_end='',
    # Before the text of a question, wherever the data has them: LLaVA's training does so, and so do its servers.
    images_first=True,
    # Transparent pictures are laid on it; None drops their alpha, as the originals do.
    background='white',
    add_tokens=True,
    max_length=2048,
    # As the originals: a longer sample loses the end of its text, never a picture. 'error' refuses it.
    too_long='truncate',
)

# The weights of each part; one that is left out, here the projector, starts anew.
pretrained = dict()
pretrained_repo = dict()
