"""The table of chat templates: names, and templates from names and configs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mmft.data.text.templates.chat_template import ChatTemplate
from mmft.errors import ConfigError
from mmft.registry import TEMPLATES

__all__ = ['build_template', 'register_template']


def register_template(template: ChatTemplate, also: Sequence[str] = ()) -> ChatTemplate:
    """Make a template known by its name; a config may change its fields: ``dict(type='phi3-chat', system_message='')``.

    Args:
        template: what the name stands for.
        also: further names, such as those of the original code's ``--version``.

    Raises:
        ConfigError: a name is taken.
    """

    def build(**changes: Any) -> ChatTemplate:
        return replace(template, **changes)

    for name in (template.name, *also):
        if name in TEMPLATES.module_dict:
            raise ConfigError(f'a chat template named {name!r} exists', fix='choose another name')
    for name in (template.name, *also):
        TEMPLATES.register_module(name=name, module=build)
    return template


def build_template(template: str | Mapping[str, Any] | ChatTemplate) -> ChatTemplate:
    """A template from its name, from a config with ``type`` (a name, or ``'ChatTemplate'``), or itself.

    Raises:
        ConfigError: no template has that name, or a field is unknown or missing.

    >>> build_template('vicuna_v1').end
    '</s>'
    """
    if isinstance(template, ChatTemplate):
        return template
    if not isinstance(template, (str, Mapping)):
        raise ConfigError(f'chat template {template!r}', expected='a name, or a dict with `type`')
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
