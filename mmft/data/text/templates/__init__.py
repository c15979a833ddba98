"""Chat templates as data: how a conversation becomes text, and which parts of the text are trained.

A template is a handful of strings. The same strings give the training text (``ChatTemplate.render``), the prompt for
generation (``render(..., add_generation_prompt=True)``) and the Jinja template that an exported model carries
(``to_jinja``).

``chat_template.py`` has the class, ``jinja.py`` its translation, ``table.py`` the names; the templates themselves are
in ``internvl.py``, ``llava.py``, ``tinyllava.py`` and ``language_models.py``. A new one is one more
``register_template(ChatTemplate(...))``, there or in the user's own code.
"""

from __future__ import annotations

from mmft.data.text.templates import internvl, language_models, llava, tinyllava
from mmft.data.text.templates.chat_template import ChatTemplate
from mmft.data.text.templates.table import build_template, register_template

__all__ = ['ChatTemplate', 'build_template', 'internvl', 'language_models', 'llava', 'register_template',
           'tinyllava']  # fmt: skip
