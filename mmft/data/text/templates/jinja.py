"""A ``ChatTemplate`` in Jinja, the language in which exported tokenizers and processors carry their templates."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from mmft.data.text.templates.chat_template import ChatTemplate
from mmft.structures import IMAGE_PLACEHOLDER

__all__ = ['MARK', 'to_jinja']

MARK = r'\{# mmft: ([A-Za-z0-9_.-]+) #\}'
"""What a source begins with: a comment with the template's name. As a regular expression."""


def to_jinja(
    template: ChatTemplate,
    image: str = IMAGE_PLACEHOLDER,
    prefix: str = '',
    gap: str = '',
    images_first: bool = False,
    leading: Sequence[str] = (),
    unspaced: Sequence[str] = (),
) -> str:
    """The template in Jinja, as ``chat_template`` of a tokenizer or processor: the same text as its ``render``.

    Content may be a string, or a list of ``{'type': 'text', 'text': ...}`` and ``{'type': 'image'}`` parts; a
    picture becomes ``image`` and a newline. A BOS token is left to the tokenizer, which adds its own in mmft, in
    transformers' processors and in LMDeploy. With ``caption_only`` a question's texts are dropped.

    Args:
        template: the template.
        image: what stands for a picture: the image token of the processor that will read the text.
        prefix: text before everything else; with ``leading`` only before texts that begin with one of these.
        gap: text between a picture and what follows it (``ChatEncoder.picture_gap``).
        images_first: the pictures of a message stand before its text (``ChatEncoder``).
        leading: see ``prefix``.
        unspaced: before these texts there is no ``gap``.
    """
    q = _quote
    first = ' + opening.text' if template.system_in_question else ''
    question = f'{q(template.user[0])}{first} + {_content(template)} + {q(template.user[1])}'
    done = "{% set opening.text = '' %}" if template.system_in_question else ''
    answer = f"{q(template.assistant + template.lead)} + flat(message['content']) + {q(template.end + template.tail)}"
    between = f'{{% if not loop.first %}}{{{{ {q(template.between)} }}}}{{% endif %}}' if template.between else ''
    begin = f'{{{{ {q(prefix)} }}}}' if prefix and not leading else ''
    body = (
        f'{begin}{_opening(template)}'
        "{% for message in turns %}{% if message['role'] == 'user' %}"
        f'{between}{{{{ {question} }}}}{done}'
        f"{{% elif message['role'] == 'assistant' %}}{{{{ {answer} }}}}"
        "{% else %}{{ raise_exception('no text for a message of role ' + message['role']) }}{% endif %}{% endfor %}"
        f'{{% if add_generation_prompt %}}{{{{ {q(template.assistant)} }}}}{{% endif %}}'
    )
    mark = f'{{# mmft: {re.sub("[^A-Za-z0-9_.-]", "_", template.name)} #}}'
    return mark + _macros(template, image, images_first) + _spaced(body, image, prefix, gap, leading, unspaced)


def _spaced(body: str, image: str, prefix: str, gap: str, leading: Sequence[str], unspaced: Sequence[str]) -> str:
    """The text of ``body`` with the spaces that ``TextEncoder.encode_text`` puts in."""
    if not gap and not leading:
        return body
    begin = f'{{% if text.startswith({_tuple(leading)}) %}}{{{{ {_quote(prefix)} }}}}{{% endif %}}' if leading else ''
    after = f'{{% if piece and not piece.startswith({_tuple(unspaced)}) %}}{{{{ {_quote(gap)} }}}}{{% endif %}}'
    pieces = (
        f'{{% for piece in text.split({_quote(image)}) %}}{{% if not loop.first %}}{{{{ {_quote(image)} }}}}{after}'
        '{% endif %}{{ piece }}{% endfor %}'
    )
    return f'{{% set text %}}{body}{{% endset %}}{begin}{pieces if gap else "{{ text }}"}'


def _opening(template: ChatTemplate) -> str:
    """What stands before the first turn; ``opening.text`` is what goes into the first question."""
    if template.system is None:
        message = _quote(f'template {template.name} has no place for a system message')
        refuse = f"{{% if messages[0]['role'] == 'system' %}}{{{{ raise_exception({message}) }}}}{{% endif %}}"
        return f'{refuse}{{% set turns = messages %}}'
    before, after = map(_quote, template.system)
    default = 'none' if template.system_message is None else _quote(template.system_message)
    own = (
        "{% if messages[0]['role'] == 'system' %}{% set system = flat(messages[0]['content']) %}"
        f'{{% set turns = messages[1:] %}}{{% else %}}{{% set system = {default} %}}'
        '{% set turns = messages %}{% endif %}'
    )
    text = f'{before} + system + {after}'
    if template.system_in_question:
        return f'{own}{{% set opening = namespace(text={text} if system else "") %}}'
    if template.system_message is None:
        return f'{own}{{% if system is not none %}}{{{{ {text} }}}}{{% endif %}}'
    return f'{own}{{{{ {text} }}}}'


def _content(template: ChatTemplate) -> str:
    return "pictures(message['content'])" if template.caption_only else "flat(message['content'])"


def _macros(template: ChatTemplate, image: str, images_first: bool) -> str:
    """``flat`` writes a message's content; ``pictures`` its pictures alone, where the text of questions is dropped."""
    if template.caption_only:
        return _flat(image) + _pictures(image)
    return _in_front(image) if images_first else _flat(image)


def _flat(image: str) -> str:
    """A message as it is."""
    return _macro(
        'flat',
        '{{ content }}',
        "{% if part['type'] == 'text' %}{{ part['text'] }}{% elif 'image' in part['type'] %}"
        f'{{{{ {_quote(image + chr(10))} }}}}{{% else %}}'
        "{{ raise_exception('no text for a part of type ' + part['type']) }}{% endif %}",
    )


def _in_front(image: str) -> str:
    """A message's pictures, a newline after each, and then its text; a message without one as it is."""
    parts = (
        "{% for part in content %}{% if part['type'] == 'text' %}{% set found.text = found.text + part['text'] %}"
        "{% elif 'image' in part['type'] %}{% set found.count = found.count + 1 %}{% else %}"
        "{{ raise_exception('no text for a part of type ' + part['type']) }}{% endif %}{% endfor %}"
    )
    return (
        "{% macro flat(content) %}{% set found = namespace(count=0, text='') %}"
        '{% if content is string %}{% set found.text = content %}{% else %}'
        f'{parts}{{% endif %}}{{% set found.count = found.count + found.text.count({_quote(image)}) %}}'
        f"{{% if found.count %}}{{% set text = found.text.replace({_quote(image)}, '') | trim %}}"
        f'{{{{ {_quote(image + chr(10))} * (found.count - 1) + {_quote(image)} }}}}'
        f'{{% if text %}}{{{{ {_quote(chr(10))} + text }}}}{{% endif %}}'
        '{% else %}{{ found.text }}{% endif %}{% endmacro %}'
    )


def _pictures(image: str) -> str:
    tokens = ' + '.join(f'content.count({_quote(text)})' for text in dict.fromkeys((image, IMAGE_PLACEHOLDER)))
    return _macro(
        'pictures',
        f'{{{{ {_quote(image)} * ({tokens}) }}}}',
        f"{{% if 'image' in part['type'] %}}{{{{ {_quote(image)} }}}}{{% endif %}}",
    )


def _macro(name: str, for_string: str, for_part: str) -> str:
    return (
        f'{{% macro {name}(content) %}}{{% if content is string %}}{for_string}{{% else %}}'
        f'{{% for part in content %}}{for_part}{{% endfor %}}{{% endif %}}{{% endmacro %}}'
    )


def _quote(text: str) -> str:
    """A Jinja string literal. Its escapes are JSON's."""
    return json.dumps(text, ensure_ascii=False)


def _tuple(texts: Sequence[str]) -> str:
    return f'({"".join(f"{_quote(text)}, " for text in texts)})'
