"""Templates of LLaVA: llava/conversation.py of haotian-liu/LLaVA at c121f043. ``also`` are its names for them.

LLaVA moves the pictures of a turn to its front (``ChatEncoder.images_first``) and makes one of several, which mmft does
not. Left out are its v0 templates, whose '###' is no token to stop at, and the mmtag ones, which no release uses.
"""

from __future__ import annotations

from dataclasses import replace

from mmft.data.text.templates.chat_template import ChatTemplate
from mmft.data.text.templates.language_models import LLAMA_3
from mmft.data.text.templates.table import register_template

__all__ = ['VICUNA']

VICUNA = register_template(
    ChatTemplate(  # LLaVA-1.5 and 1.6 on Vicuna; the text of lm-sys/FastChat's vicuna_v1.1
        'vicuna_v1',
        system_message=(
            'A chat between a curious user and an artificial intelligence assistant. '
            "The assistant gives helpful, detailed, and polite answers to the user's questions."
        ),
        system=('', ' '),
        user=('USER: ', ' '),
        assistant='ASSISTANT:',
        lead=' ',
        end='</s>',
    ),
    also=('v1', 'llama'),  # 'llama' is TinyLLaVA Factory's name
)
register_template(replace(VICUNA, name='vicuna_v1.1'))
register_template(  # the LLaVA models of July 2023
    replace(VICUNA, name='llava_v1', system_message=VICUNA.system_message.replace('user', 'human'))
)

_LLAMA_2 = register_template(
    ChatTemplate(
        'llava_llama_2',
        system_message=(
            'You are a helpful language and vision assistant. '
            'You are able to understand the visual content that the user provides, '
            'and assist the user with a variety of tasks using natural language.'
        ),
        system=('<<SYS>>\n', '\n<</SYS>>\n\n'),
        user=('[INST] ', ' [/INST]'),
        assistant='',
        lead=' ',
        end=' </s>',
        # Each round begins with a BOS token; the tokenizer writes the first.
        between='<s>',
        system_in_question=True,
    )
)
register_template(  # LLaVA-1.6 on Mistral
    replace(_LLAMA_2, name='mistral', system_message='', between=''), also=('mistral_instruct',)
)

_CHATML = register_template(
    ChatTemplate(  # LLaVA-1.6-34B
        'chatml',
        system_message='Answer the questions.',
        system=('<|im_start|>system\n', '<|im_end|>'),
        user=('<|im_start|>user\n', '<|im_end|>'),
        assistant='<|im_start|>assistant\n',
        end='<|im_end|>',
    ),
    also=('chatml_direct', 'mistral_direct'),
)
register_template(  # LLaVA on MPT
    replace(
        _CHATML,
        name='mpt',
        system_message=(
            'A conversation between a user and an LLM-based AI assistant. '
            'The assistant gives helpful and honest answers.'
        ),
    )
)
register_template(  # LLaVA-NeXT on Llama 3; of LLaVA-VL/LLaVA-NeXT
    replace(LLAMA_3, name='llava_llama_3', system_message=_LLAMA_2.system_message)
)
register_template(
    ChatTemplate(  # the alignment stage of LLaVA and TinyLLaVA: pictures and their caption, without a word of chat
        'plain',
        system_message='',
        system=None,
        user=('', ''),
        assistant='',
        end='\n',
        caption_only=True,
    ),
    also=('pretrain',),
)
