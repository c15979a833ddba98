r"""The accuracy of VQAv2 and OK-VQA, by the rule of the challenge (GT-Vision-Lab/VQA, ``vqaEval.py``).

Ten people answered each question. An answer's accuracy is min(agreeing / 3, 1), averaged over the ten sets of nine that
leave one person out: one, two, three who agree give 0.3, 0.6, 0.9. Texts are normalised only where people disagree.

The rule's oddities are part of published numbers and are kept: the pattern for full stops was meant to spare decimals
with a digit before them, too, but looks for the characters ``<=`` there; at most 32 full stops go, since a flag was
passed as the count; commas between digits decide for all punctuation; and ``somebody'd`` loses its apostrophe.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from mmft.registry import METRICS

__all__ = ['normalize_vqa', 'vqa_accuracy']

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA = re.compile(r'\d,\d')
_FULL_STOP = re.compile(r'\.(?!\d)')
_NUMBERS = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine', 'ten')
_DIGITS = {'none': '0', **{word: str(number) for number, word in enumerate(_NUMBERS)}}
_ARTICLES = ('a', 'an', 'the')
_CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're
there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've
when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't
wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
_APOSTROPHES = {
    word[:place] + word[place + 1 :]: word
    for word in _CONTRACTED.split()
    for place, char in enumerate(word)
    if char == "'"
} | {"somebody'd": 'somebodyd'}
"""Words that lack one of their apostrophes, and as they should be."""


@METRICS.register_module(name=['vqa_accuracy', 'vqa'])
def vqa_accuracy(answer: str, references: Sequence[str]) -> float:
    """The accuracy of an answer.

    Args:
        references: what people answered, ten as a rule. A single one counts as given by all ten.

    >>> people = ['race'] * 2 + ['ride'] * 3 + ['fun'] * 5
    >>> [round(vqa_accuracy(answer, people), 2) for answer in ('a race', 'Ride', 'fun!', 'work')]
    [0.6, 0.9, 1.0, 0.0]
    """
    answered, given = _one_line(answer), [_one_line(reference) for reference in references]
    if len(given) == 1:
        given *= 10
    if len(set(given)) > 1:
        answered, given = normalize_vqa(answered), [normalize_vqa(reference) for reference in given]
    agree = [reference == answered for reference in given]
    return sum(min((sum(agree) - own) / 3, 1.0) for own in agree) / len(agree) if agree else 0.0


vqa_accuracy.needs_answers = True


def normalize_vqa(text: str) -> str:
    """Lower case, without punctuation and articles, numbers up to ten as digits, apostrophes where they belong.

    >>> normalize_vqa('The two dogs, dont ask!')
    "2 dogs don't ask"
    """
    has_comma = _COMMA.search(text) is not None
    plain = text
    for char in _PUNCTUATION:
        goes = has_comma or f'{char} ' in text or f' {char}' in text
        plain = plain.replace(char, '' if goes else ' ')
    plain = _FULL_STOP.sub('', plain, count=32)
    words = [_DIGITS.get(word, word) for word in plain.lower().split()]
    return ' '.join(_APOSTROPHES.get(word, word) for word in words if word not in _ARTICLES)


def _one_line(text: str) -> str:
    return text.replace('\n', ' ').replace('\t', ' ').strip()
