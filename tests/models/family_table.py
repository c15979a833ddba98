"""The table of language models in ``docs/models.md``, from the families: ``python -m tests.models.family_table``."""

from __future__ import annotations

import inspect
from pathlib import Path

from mmft.models.language.family import families
from mmft.registry import LANGUAGE_MODELS

DOCUMENT = Path(__file__).parents[2] / 'docs' / 'models.md'
BEGIN, END = '<!-- table of python -m tests.models.family_table -->\n', '<!-- end of table -->'


def table() -> str:
    """In Markdown: name, what it is, layouts, linear layers."""
    lines = ['| language model | | layouts, beside `native` | linear layers, which LoRA targets |', '|---|---|---|---|']
    for name, family in families().items():
        what = inspect.getdoc(LANGUAGE_MODELS.get(name)).split('\n\n')[0].replace('\n', ' ').replace('``', '`')
        layers, layouts = (', '.join(f'`{word}`' for word in words) for words in (family.linear_layers, family.layouts))
        lines.append(f'| `{name}` | {what} | {layouts} | {layers} |')
    return '\n'.join(lines) + '\n'


def write_table(text: str) -> str:
    """The document with the table of today."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + table() + END + rest.split(END, 1)[1]


if __name__ == '__main__':
    DOCUMENT.write_text(write_table(DOCUMENT.read_text(encoding='utf-8')), encoding='utf-8')
