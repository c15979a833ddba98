"""Chat templates as data: how a conversation becomes text, and which parts of the text are trained.

A template is a handful of strings. The same strings give the training text (``render``), the prompt for generation
(``render(..., add_generation_prompt=True)``) and the Jinja template that an exported model carries (``to_jinja``).

A new one is one more ``register_template(ChatTemplate(...))``, here or in the user's own code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from mmft.errors import ConfigError, DataError
from mmft.registry import TEMPLATES
from mmft.structures import IMAGE_PLACEHOLDER, Message

__all__ = ['ChatTemplate', 'build_template', 'register_template']

ROLES = ('system', 'user', 'assistant')


@dataclass(frozen=True)
class ChatTemplate:
    r"""The strings around the messages of a conversation.

    Text is ``system[0] + system message + system[1]``, then per turn ``user[0] + question + user[1]`` or
    ``assistant + lead + answer + end + tail``. Of all that ``lead + answer + end`` is trained: the model has to learn
    where to stop, but not what a program writes after it stopped.

    Attributes:
        name: what a config calls it.
        system_message: used where the conversation does not begin with a system message of its own.
        system: text before and after the system message.
        user: text before and after a question.
        assistant: text before an answer; also what a generation prompt ends with.
        lead: trained text between ``assistant`` and the answer. Vicuna's space belongs here: sentencepiece makes one
            token of the space and the first word.
        end: the end token of an answer (trained, and what generation stops at).
        tail: text after the end token.
        strip: the original strips each message in training (not when it is served): see ``normalise``.
        any_order: roles need not alternate and the assistant may begin, as the original of this template allows.
        stop: further tokens at which generation stops.

    >>> toy = ChatTemplate('toy', 'Be kind.', ('[', ']'), ('Q: ', '\n'), 'A:', lead=' ', end='</s>')
    >>> toy.render([{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Hello'}])
    [('[Be kind.]Q: Hi\nA:', False), (' Hello</s>', True)]
    """

    name: str
    system_message: str
    system: tuple[str, str]
    user: tuple[str, str]
    assistant: str
    lead: str = ''
    end: str = ''
    tail: str = ''
    strip: bool = False
    any_order: bool = False
    stop: tuple[str, ...] = ()

    def check(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = False) -> None:
        """Refuse a conversation that cannot be rendered, or that would teach nothing.

        Args:
            messages: turns with ``role`` and ``content``.
            add_generation_prompt: False, a training sample, must end with an answer; True must end with a question.

        Raises:
            DataError: no messages, an unknown role or one out of order, a message that is not text or empty.
        """
        if not isinstance(messages, Sequence) or isinstance(messages, (str, bytes)) or not messages:
            raise DataError(f'no messages: {messages!r}', expected='a list of at least one question and one answer')
        for number, message in enumerate(messages, 1):
            _check_message(number, message)
        turns = messages[1:] if messages[0]['role'] == 'system' else messages
        self._check_order([turn['role'] for turn in turns], len(messages) - len(turns))
        last = turns[-1]['role']
        if last != ('user' if add_generation_prompt else 'assistant'):
            raise DataError(
                f'the last message is of role {last!r}',
                expected='a question, to be answered' if add_generation_prompt else 'an answer, to be learnt',
                fix='take the answer off' if add_generation_prompt else 'add the answer or take the question off',
            )

    def _check_order(self, roles: list[str], offset: int) -> None:
        if not roles:
            raise DataError('nothing but a system message', expected='a question')
        if 'system' in roles:
            number = roles.index('system') + 1 + offset
            raise DataError(f'message {number} is of role system', expected='a system message only at the beginning')
        if self.any_order:
            return
        for index, role in enumerate(roles):
            expected = ('user', 'assistant')[index % 2]
            if role != expected:
                raise DataError(
                    f'message {index + 1 + offset} is of role {role!r}',
                    expected=f'{expected!r}: user and assistant take turns, and the user begins',
                    fix='join neighbouring messages of one role, and drop what comes before the first question',
                )

    def normalise(self, messages: Sequence[Mapping[str, Any]]) -> list[Message]:
        """The messages as the original trains on them: each stripped if the template says so.

        OpenGVLab strips when it trains internlm2-chat and does not when it serves it, so ``render`` leaves texts alone.
        """
        if not self.strip:
            return [Message(role=m['role'], content=m['content']) for m in messages]
        return [Message(role=m['role'], content=m['content'].strip()) for m in messages]

    def render(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = False
    ) -> list[tuple[str, bool]]:
        """The conversation as pieces of text, each with whether it is trained; neighbours differ in that.

        Args:
            messages: as ``check`` wants them (this method does not look twice). A first message of role ``system``
                takes the place of ``system_message``; its text may be empty.
            add_generation_prompt: end with the text that the assistant's answer follows.
        """
        own = bool(messages) and messages[0]['role'] == 'system'
        system = messages[0]['content'] if own else self.system_message
        pieces, pending = [], self.system[0] + system + self.system[1]
        for message in messages[own:]:
            if message['role'] == 'user':
                pending += self.user[0] + message['content'] + self.user[1]
            else:
                pieces += [(pending + self.assistant, False), (self.lead + message['content'] + self.end, True)]
                pending = self.tail
        if add_generation_prompt:
            pending += self.assistant
        return [*pieces, (pending, False)] if pending else pieces

    def text(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = False) -> str:
        """``render`` as one string."""
        return ''.join(piece for piece, _ in self.render(messages, add_generation_prompt))

    def to_jinja(self, image: str = IMAGE_PLACEHOLDER, prefix: str = '') -> str:
        """The template in Jinja, as ``chat_template`` of a tokenizer or processor: the same text as ``render``.

        Content may be a string, or a list of ``{'type': 'text', 'text': ...}`` and ``{'type': 'image'}`` parts; a
        picture becomes ``image`` and a newline. A BOS token is left to the tokenizer, which adds its own in mmft, in
        transformers' processors and in LMDeploy.

        Args:
            image: what stands for a picture: the image token of the processor that will read the text.
            prefix: text before everything else (``ChatEncoder.text_prefix``).
        """
        picture, q = _quote(image + '\n'), _quote
        return (
            '{% macro flat(content) %}{% if content is string %}{{ content }}{% else %}{% for part in content %}'
            "{% if part['type'] == 'text' %}{{ part['text'] }}{% elif 'image' in part['type'] %}"
            f"{{{{ {picture} }}}}{{% else %}}{{{{ raise_exception('no text for a part of type ' + part['type']) }}}}"
            '{% endif %}{% endfor %}{% endif %}{% endmacro %}'
            "{% if messages[0]['role'] == 'system' %}{% set system = flat(messages[0]['content']) %}"
            f'{{% set turns = messages[1:] %}}{{% else %}}{{% set system = {q(self.system_message)} %}}'
            '{% set turns = messages %}{% endif %}'
            f'{{{{ {q(prefix + self.system[0])} + system + {q(self.system[1])} }}}}'
            "{% for message in turns %}{% if message['role'] == 'user' %}"
            f"{{{{ {q(self.user[0])} + flat(message['content']) + {q(self.user[1])} }}}}"
            "{% elif message['role'] == 'assistant' %}"
            f"{{{{ {q(self.assistant + self.lead)} + flat(message['content']) + {q(self.end + self.tail)} }}}}"
            "{% else %}{{ raise_exception('no text for a message of role ' + message['role']) }}{% endif %}"
            '{% endfor %}'
            f'{{% if add_generation_prompt %}}{{{{ {q(self.assistant)} }}}}{{% endif %}}'
        )

    def to_dict(self) -> dict[str, Any]:
        """The config that ``build_template`` turns into an equal template; it needs no registered name."""
        return {'type': 'ChatTemplate', **asdict(self)}


def _check_message(number: int, message: Any) -> None:
    if not isinstance(message, Mapping) or not {'role', 'content'} <= message.keys():
        raise DataError(f'message {number} is {message!r}', expected="a dict with 'role' and 'content'")
    role, content = message['role'], message['content']
    if role not in ROLES:
        raise DataError(f'message {number} is of role {role!r}', expected=f'one of {ROLES}')
    if not isinstance(content, str):
        raise DataError(f'the content of message {number} is {type(content).__name__}', expected='a string')
    if role != 'system' and not content.strip():
        what = 'answer' if role == 'assistant' else 'question'
        raise DataError(f'message {number} is an empty {what}', expected='text', fix='fill it in or drop the sample')


def _quote(text: str) -> str:
    """A Jinja string literal. Its escapes are JSON's."""
    return json.dumps(text, ensure_ascii=False)


def register_template(template: ChatTemplate) -> ChatTemplate:
    """Make a template known by its name; a config may change its fields: ``dict(type='phi3-chat', system_message='')``.

    Raises:
        ConfigError: the name is taken.
    """

    def build(**changes: Any) -> ChatTemplate:
        return replace(template, **changes)

    if template.name in TEMPLATES.module_dict:
        raise ConfigError(f'a chat template named {template.name!r} exists', fix='choose another name')
    TEMPLATES.register_module(name=template.name, module=build)
    return template


def build_template(template: str | Mapping[str, Any] | ChatTemplate) -> ChatTemplate:
    """A template from its name, from a config with ``type`` (a name, or ``'ChatTemplate'``), or itself.

    Raises:
        ConfigError: no template has that name, or a field is unknown or missing.

    >>> build_template('phi3-chat').end
    '<|end|>'
    """
    if isinstance(template, ChatTemplate):
        return template
    config = {'type': template} if isinstance(template, str) else dict(template)
    try:
        name = config.pop('type', None)
        if name != 'ChatTemplate' and name not in TEMPLATES.module_dict:
            raise TEMPLATES.unknown(str(name))
        # Not TEMPLATES.build: mmengine takes what stands before the dot of 'vicuna_v1.1' for a registry's scope.
        build = ChatTemplate if name == 'ChatTemplate' else TEMPLATES.module_dict[name]
        return build(**{key: tuple(value) if isinstance(value, list) else value for key, value in config.items()})
    except TypeError as error:
        raise ConfigError(
            f'chat template {template!r}: {error}', expected=f'fields of {list(ChatTemplate.__dataclass_fields__)}'
        ) from error


_CHATML_SYSTEM = ('<|im_start|>system\n', '<|im_end|>')
_CHATML_USER = ('<|im_start|>user\n', '<|im_end|>')
_CHATML_ASSISTANT = '<|im_start|>assistant\n'

# The system prompt that the InternVL2 models are trained and served with.
_INTERNVL2_SYSTEM = (
    '你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, 是一个有用无害的人工智能助手。'
)

# All from internvl_chat/internvl/conversation.py of OpenGVLab/InternVL at 2410d1db.
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
register_template(
    ChatTemplate(  # Vicuna 1.1 as registered by FastChat (lm-sys/FastChat), also LLaVA 1.5's
        'vicuna_v1.1',
        system_message=(
            'A chat between a curious user and an artificial intelligence assistant. '
            "The assistant gives helpful, detailed, and polite answers to the user's questions."
        ),
        system=('', ' '),
        user=('USER: ', ' '),
        assistant='ASSISTANT:',
        lead=' ',
        end='</s>',
    )
)
