"""Templates of the small language models: of TinyLLaVA Factory (tinyllava/data/template at 53f12c78), of TinyLLaVABench
(tinyllava/conversation.py at 2d2105fc).

The TinyLLaVA ones are Vicuna's text and the end-of-text token of the model. ``also`` are the originals' names.
"""

from __future__ import annotations

from dataclasses import replace

from mmft.data.text.templates.chat_template import ChatTemplate
from mmft.data.text.templates.llava import VICUNA
from mmft.data.text.templates.table import register_template

__all__ = []

register_template(replace(VICUNA, name='phi', end='<|endoftext|>'))
register_template(replace(VICUNA, name='stablelm', end='<|endoftext|>'))
register_template(replace(VICUNA, name='gemma', end='<eos>'))
register_template(replace(VICUNA, name='qwen2_base', end='<|endoftext|>'))
register_template(replace(VICUNA, name='qwen2_instruct', end='<|im_end|>', stop=('<|endoftext|>',)))

register_template(
    ChatTemplate(  # TinyLLaVABench's; TinyLlama-Chat itself has no tokens for the roles either
        'tinyllama',
        system_message=(
            'You are a helpful language and vision assistant. '
            'You are able to understand the visual content that the user provides, '
            'and assist the user with a variety of tasks using natural language.'
        ),
        # The original cuts the leading '<' off with `lstrip('<s>')`, in training and when it is served, so its models
        # know no other text.
        system=('|system|>\n', '\n'),
        user=('<|user|>\n', '\n'),
        assistant='<|assistant|>\n',
        end='</s>',
        between='<s>',
    ),
    also=('tiny_llama',),
)
