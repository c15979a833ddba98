"""Templates of the small language models: of TinyLLaVA Factory (tinyllava/data/template at 53f12c78), of TinyLLaVABench
(tinyllava/conversation.py at 2d2105fc), and two of the models' own.

The TinyLLaVA ones are Vicuna's text and the end-of-text token of the model. ``also`` are the originals' names.
"""

from __future__ import annotations

from dataclasses import replace

from mmft.data.templates.chat_template import ChatTemplate
from mmft.data.templates.llava import VICUNA
from mmft.data.templates.table import register_template

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
register_template(
    ChatTemplate(  # of Qwen's own Qwen2-*-Instruct
        'qwen2',
        system_message='You are a helpful assistant.',
        system=('<|im_start|>system\n', '<|im_end|>\n'),
        user=('<|im_start|>user\n', '<|im_end|>\n'),
        assistant='<|im_start|>assistant\n',
        end='<|im_end|>',
        tail='\n',
        stop=('<|endoftext|>',),
    )
)
register_template(
    ChatTemplate(  # of Google's own gemma-*-it, which knows no system message
        'gemma-it',
        system_message='',
        system=None,
        user=('<start_of_turn>user\n', '<end_of_turn>\n'),
        assistant='<start_of_turn>model\n',
        end='<end_of_turn>',
        tail='\n',
    )
)
