"""The frame of every HTML page mmft writes: one file, light and dark, with its pictures in it, needing nothing else.

The data check, the demo's report, ``mmft compare`` and a saved conversation fill it. What is their own, a style and a
body, lies beside the code that writes them, as one template: ``<style>...</style>`` and then the body's markup, where
``{{English|中文}}`` is shown in the language of the browser.

The frame has one script, which asks the browser for that language, and a policy that lets no other script run and
nothing be fetched, whatever a model or a data set has put into a page.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from pathlib import Path
from string import Template
from typing import Any

__all__ = ['both', 'image_tag', 'render']

_FRAME = Path(__file__).with_suffix('.html')
_SCRIPT = "if(/^zh/i.test(navigator.language))document.documentElement.lang='zh'"
_SCRIPT_HASH = f'sha256-{base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()}'
_BOTH = re.compile(r'\{\{(.+?)\|(.+?)\}\}', re.DOTALL)


def both(english: str, chinese: str) -> str:
    """HTML that the browser shows in its own language: Chinese where that is the reader's, else English.

    Args:
        english, chinese: HTML, escaped by the caller.
    """
    return f'<span class="t" lang="en">{english}</span><span class="t" lang="zh">{chinese}</span>'


def render(template: Path, title: str, **values: Any) -> str:
    """The page.

    Args:
        template: file with its own style and body. ``$name`` stands for a value, ``$$`` for a dollar,
            ``{{English|中文}}`` for ``both``.
        title: plain text, escaped here. The template may show it again as ``$title``.
        values: HTML, escaped by the caller; all the names of the template and no others are needed.

    Raises:
        KeyError: the template names a value that is not given.
    """
    title = html.escape(title)
    markup = _BOTH.sub(lambda match: both(match[1], match[2]), template.read_text(encoding='utf-8'))
    filled = Template(markup).substitute(values, title=title)
    style, body = filled.removeprefix('<style>').split('</style>', 1)
    frame = Template(_FRAME.read_text(encoding='utf-8'))
    fixed = {'script': _SCRIPT, 'script_hash': _SCRIPT_HASH}
    return frame.substitute(fixed, title=title, style=style.strip(), body=body.strip())


def image_tag(data: bytes, alt: str, kind: str = 'jpeg') -> str:
    """An ``<img>`` that carries the picture.

    Args:
        data: bytes of the encoded picture.
        alt: plain text, escaped here.
        kind: of the encoding, as in ``image/jpeg``.
    """
    code = base64.b64encode(data).decode()
    return f'<img loading="lazy" alt="{html.escape(alt)}" src="data:image/{kind};base64,{code}">'
