"""The frame of every HTML page mmft writes: one file, light and dark, with its pictures in it, needing nothing else.

The data check, the demo's report, ``mmft compare`` and a saved conversation fill it. What is their own, a style and a
body, lies beside the code that writes them, as one template: ``<style>...</style>`` and then the body's markup.
"""

from __future__ import annotations

import base64
import html
from pathlib import Path
from string import Template
from typing import Any

__all__ = ['image_tag', 'render']

_FRAME = Path(__file__).with_suffix('.html')


def render(template: Path, title: str, **values: Any) -> str:
    """The page.

    Args:
        template: file with its own style and body. ``$name`` stands for a value, ``$$`` for a dollar.
        title: plain text, escaped here. The template may show it again as ``$title``.
        values: HTML, escaped by the caller; all the names of the template and no others are needed.

    Raises:
        KeyError: the template names a value that is not given.
    """
    title = html.escape(title)
    filled = Template(template.read_text(encoding='utf-8')).substitute(values, title=title)
    style, body = filled.removeprefix('<style>').split('</style>', 1)
    frame = Template(_FRAME.read_text(encoding='utf-8'))
    return frame.substitute(title=title, style=style.strip(), body=body.strip())


def image_tag(data: bytes, alt: str, kind: str = 'jpeg') -> str:
    """An ``<img>`` that carries the picture.

    Args:
        data: bytes of the encoded picture.
        alt: plain text, escaped here.
        kind: of the encoding, as in ``image/jpeg``.
    """
    code = base64.b64encode(data).decode()
    return f'<img loading="lazy" alt="{html.escape(alt)}" src="data:image/{kind};base64,{code}">'
