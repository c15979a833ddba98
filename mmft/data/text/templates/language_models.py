"""Templates that language models bring themselves: the text of the chat template in their tokenizer's files."""

from __future__ import annotations

from dataclasses import replace

from mmft.data.text.templates.chat_template import ChatTemplate
from mmft.data.text.templates.table import register_template

__all__ = ['LLAMA_3']

_QWEN2 = register_template(
    ChatTemplate(  # of Qwen's Qwen2-*-Instruct
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
register_template(  # ChatML as most models have it: a newline after <|im_end|>, no system message unless one is given
    replace(_QWEN2, name='chatml_newline', system_message=None),
    also=('qwen3',),  # where the thinking of Qwen3 is a part of the answer
)
register_template(
    ChatTemplate(  # of Google's gemma-*-it, which knows no system message
        'gemma-it',
        system_message='',
        system=None,
        user=('<start_of_turn>user\n', '<end_of_turn>\n'),
        assistant='<start_of_turn>model\n',
        end='<end_of_turn>',
        tail='\n',
    )
)
LLAMA_3 = register_template(
    ChatTemplate(  # of Meta's Llama-3-*-Instruct; XTuner's llava-llama-3 has it as it is
        'llama3',
        system_message=None,
        system=('<|start_header_id|>system<|end_header_id|>\n\n', '<|eot_id|>'),
        user=('<|start_header_id|>user<|end_header_id|>\n\n', '<|eot_id|>'),
        assistant='<|start_header_id|>assistant<|end_header_id|>\n\n',
        end='<|eot_id|>',
        stop=('<|end_of_text|>',),
    ),
    also=('llama3_chat',),
)
register_template(
    ChatTemplate(  # of Microsoft's Phi-3-*-instruct; XTuner's llava-phi-3 has it as it is
        'phi3',
        system_message=None,
        system=('<|system|>\n', '<|end|>\n'),
        user=('<|user|>\n', '<|end|>\n'),
        assistant='<|assistant|>\n',
        end='<|end|>',
        tail='\n',
        stop=('<|endoftext|>',),
    ),
    also=('phi3_chat',),  # XTuner's name; phi3-chat is InternVL's
)
