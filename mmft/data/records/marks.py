"""Pictures in the text of a record, in the ways of other models, brought to the one that mmft reads: ``<image>``."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mmft.errors import DataError
from mmft.structures import IMAGE_PLACEHOLDER, Message
from mmft.words import clipped, count_of

__all__ = ['has_placeholder', 'place_pictures', 'unread_marks']

# Qwen-VL writes the path itself into the text.
_PATH = re.compile(r'<img>\s*([^<>\n]+?)\s*</img>')
# Qwen2-VL, LLaVA-like and MMMU-like numbers, Phi-3 (numbered) and Llama 3.2, InternLM-XComposer, Gemma 3, Janus
_PLACEHOLDER = re.compile(
    r'<\|vision_start\|>(?:<\|image_pad\|>)+<\|vision_end\|>|<\|?image[ _-]?(?P<number>\d{1,4})\|?>|<\|image\|>'
    r'|<\|image_pad\|>|<ImageHere>|<start_of_image>|<image_placeholder>|<I(?:mage|MAGE)>'
)
# Tags of HTML have an end, or are quoted where one writes about them.
_MARK = re.compile(
    r'(?<![`\'"\w])<(?P<tag>video|audio|speech|bbox|ref-object|region)>(?![`\'"]|(?s:.*)</(?P=tag)>)'
    r'|<\|(?:video|audio|vision|media|box|object|begin_of|end_of)(?:_\w+)?\|>|</image>|<im_(?:start|end)>'
    r'|<img>\s*</img>'
)


def place_pictures(messages: Sequence[Message], images: Sequence[str]) -> tuple[list[Message], list[str]]:
    """The messages with ``<image>`` for each picture, and the pictures in that order.

    Paths between ``<img>`` and ``</img>`` are taken out of the questions. Placeholders of other models count where
    there is no ``<image>``; numbered ones (from 0 or 1, each once) may stand in any order.

    Raises:
        DataError: paths in the text and beside it, other placeholders that do not fit the pictures.

    >>> place_pictures([{'role': 'user', 'content': 'Is <image2> like <image1>?'}], ['a.jpg', 'b.jpg'])
    ([{'role': 'user', 'content': 'Is <image> like <image>?'}], ['b.jpg', 'a.jpg'])
    """
    messages, images = list(messages), list(images)
    asked = [message['content'] for message in messages if message['role'] == 'user']
    paths = [path for text in asked for path in _PATH.findall(text)]
    if paths and images:
        raise DataError(
            f'pictures in the text, `<img>{clipped(paths[0], 60)}</img>`, and beside it, {clipped(images[0], 60)!r}',
            expected='picture paths in one of the two places',
            fix=f'write {IMAGE_PLACEHOLDER} instead of each path in the text',
        )
    if paths:
        return _replaced(messages, _PATH), paths
    if any(IMAGE_PLACEHOLDER in text for text in asked):
        return messages, images  # what looks like a placeholder beside it is a word about a picture
    found = [match for text in asked for match in _PLACEHOLDER.finditer(text)]
    if not found:
        return messages, images
    numbers = [int(match['number']) for match in found if match['number']]
    first = min(numbers, default=1)
    fits = len(found) == len(images) and len(numbers) in (0, len(found))
    if not fits or (numbers and sorted(numbers) != list(range(first, first + len(images)))) or first > 1:
        shown = ', '.join(dict.fromkeys(match[0] for match in found))
        raise DataError(
            f'the placeholders {clipped(shown, 100)} do not fit {count_of(len(images), "picture")}',
            expected=f'{IMAGE_PLACEHOLDER}, or another placeholder once for each picture (numbered: from 1)',
            fix=f'write {IMAGE_PLACEHOLDER} where each picture belongs, and its path into `image`',
        )
    images = [images[number - first] for number in numbers] if numbers else images
    return _replaced(messages, _PLACEHOLDER), images


def has_placeholder(text: str) -> bool:
    """Whether a text says where its pictures stand, in whatever way."""
    return IMAGE_PLACEHOLDER in text or bool(_PLACEHOLDER.search(text))


def _replaced(messages: Sequence[Message], pattern: re.Pattern[str]) -> list[Message]:
    return [
        {**turn, 'content': pattern.sub(IMAGE_PLACEHOLDER, turn['content'])} if turn['role'] == 'user' else turn
        for turn in messages
    ]


def unread_marks(messages: Sequence[Message]) -> tuple[str, ...]:
    """What stands for something other than a picture, or for a picture and is read as text, as phrases for a report."""
    patterns = (_MARK, _PLACEHOLDER, _PATH)
    marks = dict.fromkeys(m[0] for turn in messages for pattern in patterns for m in pattern.finditer(turn['content']))
    return tuple(f'`{clipped(mark, 40)}` in the text' for mark in marks)
