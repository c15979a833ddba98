"""Templates of the InternVL family: internvl_chat/internvl/conversation.py of OpenGVLab/InternVL at 2410d1db."""

from __future__ import annotations

from mmft.data.text.templates.chat_template import ChatTemplate
from mmft.data.text.templates.table import register_template

__all__ = []

_CHATML_SYSTEM = ('<|im_start|>system\n', '<|im_end|>')
_CHATML_USER = ('<|im_start|>user\n', '<|im_end|>')
_CHATML_ASSISTANT = '<|im_start|>assistant\n'

# The system prompt that the InternVL2 models are trained and served with.
_INTERNVL2_SYSTEM = (
    '你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, 是一个有用无害的人工智能助手。'
)

register_template(
    ChatTemplate(  # InternVL2-2B, -8B, -26B
        'internlm2-chat',
        system_message=_INTERNVL2_SYSTEM,
        system=_CHATML_SYSTEM,
        user=_CHATML_USER,
        assistant=_CHATML_ASSISTANT,
        end='<|im_end|>',
        strip=True,
    )
)
register_template(
    ChatTemplate(  # InternVL2-1B, -40B
        'Hermes-2',
        system_message=_INTERNVL2_SYSTEM,
        system=_CHATML_SYSTEM,
        user=_CHATML_USER,
        assistant=_CHATML_ASSISTANT,
        end='<|im_end|>',
        stop=('<|endoftext|>',),
    )
)
register_template(
    ChatTemplate(  # InternVL2-4B
        'phi3-chat',
        system_message=_INTERNVL2_SYSTEM,
        system=('<|system|>\n', '<|end|>'),
        user=('<|user|>\n', '<|end|>'),
        assistant='<|assistant|>\n',
        end='<|end|>',
    )
)
register_template(
    ChatTemplate(  # InternVL2.5 and later
        'internvl2_5',
        system_message=(
            '你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。'
        ),
        system=('<|im_start|>system\n', '<|im_end|>\n'),
        user=('<|im_start|>user\n', '<|im_end|>\n'),
        assistant=_CHATML_ASSISTANT,
        end='<|im_end|>',
        tail='\n',
        any_order=True,
    )
)
register_template(
    ChatTemplate(  # InternVL-Chat 1.1
        'internvl_zh',
        system_message='',
        system=('', ' '),
        user=('<human>: ', ' '),
        assistant='<bot>:',
        lead=' ',
        end='</s>',
    )
)
