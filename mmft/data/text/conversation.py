"""Whether a conversation is legal: its messages, their roles, order and texts, and the placeholders of its pictures.

Records, training samples and prompts are checked here and nowhere else. What may follow what is the template's to say:
some take roles in any order, some have no place for a system message. A record that is read without an encoder has no
template yet, and is held to the common rules: user and assistant in turns, after a system message or none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmft.data.text.templates.chat_template import ChatTemplate
from mmft.errors import DataError
from mmft.structures import IMAGE_PLACEHOLDER
from mmft.words import count_of

__all__ = ['check_conversation', 'check_message', 'check_placeholders']

ROLES = ('system', 'user', 'assistant')


def check_conversation(
    messages: Sequence[Mapping[str, Any]], template: ChatTemplate | None = None, prompt: bool = False
) -> None:
    """Refuse a conversation that cannot be written, or that would teach nothing.

    Args:
        messages: turns with ``role`` and ``content``.
        template: what it will be written with, if that is known.
        prompt: whether it ends with a question, to be answered; otherwise it ends with an answer, to be learnt.

    Raises:
        DataError: no messages, an unknown role or one out of order, a message that is not text or empty, a system
            message that has no place, no answer that is trained, or for ``caption_only`` more than a question with a
            picture and its answer.

    >>> check_conversation([{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Hello'}])
    """
    if not isinstance(messages, Sequence) or isinstance(messages, (str, bytes)) or not messages:
        raise DataError(f'no messages: {messages!r}', expected='a list of at least one question and one answer')
    for number, message in enumerate(messages, 1):
        check_message(number, message)
    turns = messages[1:] if messages[0]['role'] == 'system' else messages
    if template is not None and template.system is None and len(turns) < len(messages):
        raise DataError(
            f'message 1 is of role system, for which template {template.name!r} has no place',
            expected='a conversation that begins with a question',
            fix='put its text into the first question, or give encoder.template a `system` of its own',
        )
    any_order = template is not None and template.any_order
    _check_order([turn['role'] for turn in turns], len(messages) - len(turns), any_order)
    last = turns[-1]['role']
    if last != ('user' if prompt else 'assistant'):
        raise DataError(
            f'the last message is of role {last!r}',
            expected='a question, to be answered' if prompt else 'an answer, to be learnt',
            fix='take the answer off' if prompt else 'add the answer or take the question off',
        )
    if not prompt and not any(turn.get('loss', True) for turn in turns if turn['role'] == 'assistant'):
        raise DataError(
            'no answer is trained: all have `loss` false or `weight` 0',
            expected='one to learn from',
            fix='take the sample out, or the key out of one answer',
        )
    if template is not None and template.caption_only:
        _check_caption(turns, template)


def check_message(number: int, message: Any) -> None:
    """Refuse a message that is not one of a known role with a text.

    Args:
        number: its place in the conversation, from 1, for the error.
    """
    if not isinstance(message, Mapping) or not {'role', 'content'} <= message.keys():
        raise DataError(f'message {number} is {message!r}', expected="a dict with 'role' and 'content'")
    role, content = message['role'], message['content']
    if role not in ROLES:
        raise DataError(f'message {number} is of role {role!r}', expected=f'one of {ROLES}')
    if not isinstance(content, str):
        raise DataError(f'the content of message {number} is {type(content).__name__}', expected='a string')
    if role != 'system' and not content.strip():
        what = 'answer' if role == 'assistant' else 'question'
        raise DataError(f'message {number} is an empty {what}', expected='text', fix='write it, or drop the sample')


def check_placeholders(
    messages: Sequence[Mapping[str, Any]], num_images: int, image_token: str | None = IMAGE_PLACEHOLDER
) -> None:
    """Refuse a conversation whose questions do not hold one placeholder for each picture.

    Args:
        messages: legal ones.
        num_images: pictures of the conversation.
        image_token: text that becomes the token of a picture wherever it stands; while the encoder is not known the
            placeholder itself, as it is for LLaVA. None: text of answers and system messages may be anything.
    """
    for number, turn in enumerate(messages, 1):
        text = turn['content']
        if turn['role'] == 'user':
            text = text.replace(IMAGE_PLACEHOLDER, '')
        if image_token is not None and image_token in text:
            raise DataError(
                f'message {number} contains the text {image_token!r}',
                expected='no text that takes the place of a picture',
                fix=f'write {IMAGE_PLACEHOLDER!r} in a question if a picture is meant, or remove it',
            )
    found = sum(turn['content'].count(IMAGE_PLACEHOLDER) for turn in messages if turn['role'] == 'user')
    if found != num_images:
        fewer = f'add {IMAGE_PLACEHOLDER} where each picture belongs, or remove the surplus pictures'
        more = f'add the missing pictures, or remove the surplus {IMAGE_PLACEHOLDER}'
        raise DataError(
            f'{found} {IMAGE_PLACEHOLDER} in the questions, {count_of(num_images, "picture")}',
            expected='one placeholder per picture',
            fix=fewer if found < num_images else more,
        )


def _check_order(roles: list[str], offset: int, any_order: bool) -> None:
    if not roles:
        raise DataError('nothing but a system message', expected='a question')
    if 'system' in roles:
        number = roles.index('system') + 1 + offset
        raise DataError(f'message {number} is of role system', expected='a system message only at the beginning')
    for index, role in enumerate([] if any_order else roles):
        expected = ('user', 'assistant')[index % 2]
        if role != expected:
            raise DataError(
                f'message {index + 1 + offset} is of role {role!r}',
                expected=f'{expected!r}: user and assistant take turns, and the user begins',
                fix='join neighbouring messages of one role, and drop what comes before the first question',
            )


def _check_caption(turns: Sequence[Mapping[str, Any]], template: ChatTemplate) -> None:
    pictures = turns[0]['content'].count(IMAGE_PLACEHOLDER)
    if len(turns) > 2 or not pictures:
        raise DataError(
            f'{count_of(len(turns), "message")}, {pictures} {IMAGE_PLACEHOLDER} in the first, for template '
            f'{template.name!r}',
            expected='one question with a picture, and its answer: the caption',
            fix='take a template for conversations, or leave this sample out of the alignment stage',
        )
