"""From messages and pictures to what a ``ChatEncoder`` takes: the one assembly of a prompt.

``model.chat``, ``mmft chat``, ``webui``, ``compare`` and the backend ``mmft`` of ``mmft serve`` all come through here;
what goes to a server is these messages, taken apart again. A picture is ``<image>`` in a question, with a newline
after it, as the exported chat templates write a picture that comes as a part of a message.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmft.data.text.conversation import check_placeholders
from mmft.errors import DataError
from mmft.structures import IMAGE_PLACEHOLDER, Message

__all__ = ['add_placeholders', 'from_parts', 'prompt_messages', 'to_parts']


def add_placeholders(question: str, num_images: int) -> str:
    """A question with ``<image>`` in front for each of its pictures that it has no place for.

    >>> add_placeholders('What is it?', 1), add_placeholders('Is <image> a dog?', 1)
    ('<image>\\nWhat is it?', 'Is <image> a dog?')
    """
    return f'{IMAGE_PLACEHOLDER}\n' * (num_images - question.count(IMAGE_PLACEHOLDER)) + question


def prompt_messages(messages: Sequence[Mapping[str, Any]], num_images: int) -> list[Message]:
    """The messages of a prompt, with ``<image>`` for each picture.

    A last question without ``<image>`` gets one in front for each picture that the turns before have no place for, as
    OpenGVLab's ``chat`` does with a first question.

    Args:
        messages: turns ``{'role', 'content'}``, the last one a question.
        num_images: pictures of all turns.

    Raises:
        DataError: no question at the end, an empty one, or more or fewer ``<image>`` than pictures.

    >>> prompt_messages([{'role': 'user', 'content': 'What is it?'}], 1)
    [{'role': 'user', 'content': '<image>\\nWhat is it?'}]
    """
    turns = [Message(role=turn['role'], content=turn['content']) for turn in messages]
    if not turns or turns[-1]['role'] != 'user':
        raise DataError('a conversation without a question at its end', expected='a last message of the user')
    last = turns[-1]['content']
    if not last.replace(IMAGE_PLACEHOLDER, '').strip() and num_images == 0:
        raise DataError('an empty question', expected='text, or a picture')
    placed = sum(turn['content'].count(IMAGE_PLACEHOLDER) for turn in turns if turn['role'] == 'user')
    if IMAGE_PLACEHOLDER not in last and placed < num_images:
        turns[-1]['content'] = add_placeholders(last, num_images - placed)
    check_placeholders(turns, num_images, None)
    return turns


def to_parts(messages: Iterable[Message], urls: Iterable[str]) -> list[dict[str, Any]]:
    """The messages as OpenAI's API has them: questions with pictures as lists of parts.

    Args:
        urls: of the pictures, in the order of their ``<image>``.

    >>> to_parts([{'role': 'user', 'content': '<image>\\nWhat is it?'}], ['data:...'])[0]['content']
    [{'type': 'image_url', 'image_url': {'url': 'data:...'}}, {'type': 'text', 'text': 'What is it?'}]
    """
    left, made = iter(urls), []
    for turn in messages:
        if turn['role'] != 'user' or IMAGE_PLACEHOLDER not in turn['content']:
            made.append(dict(turn))
            continue
        parts: list[dict[str, Any]] = []
        for number, text in enumerate(turn['content'].split(IMAGE_PLACEHOLDER)):
            if number:
                parts.append({'type': 'image_url', 'image_url': {'url': next(left)}})
                text = text.removeprefix('\n')  # chat templates put one after a picture themselves
            if text:
                parts.append({'type': 'text', 'text': text})
        made.append({'role': 'user', 'content': parts})
    return made


def from_parts(messages: Iterable[Mapping[str, Any]]) -> tuple[list[Message], list[str]]:
    """The messages and picture URLs of OpenAI's: what ``to_parts`` takes.

    >>> picture = {'type': 'image_url', 'image_url': {'url': 'data:...'}}
    >>> from_parts([{'role': 'user', 'content': [picture, {'type': 'text', 'text': 'What is it?'}]}])
    ([{'role': 'user', 'content': '<image>\\nWhat is it?'}], ['data:...'])
    """
    made, urls = [], []
    for message in messages:
        content, text = message['content'], ''
        for part in [{'type': 'text', 'text': content}] if isinstance(content, str) else content:
            if part['type'] == 'text':
                text += part['text']
            else:
                text += f'{IMAGE_PLACEHOLDER}\n'
                urls.append(part['image_url']['url'])
        made.append(Message(role=message['role'], content=text))
    return made, urls
