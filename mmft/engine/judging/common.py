"""What all checks of a config share: how a bad value is reported, nearly right names, parts that cannot be built."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from mmft.checks import is_number
from mmft.errors import ConfigError, MMFTError
from mmft.registry import Registry
from mmft.words import did_you_mean

__all__ = ['attempt', 'is_path', 'is_positive', 'part_problems']


def is_path(value: Any) -> bool:
    """Whether it is text or a path."""
    return isinstance(value, (str, os.PathLike))


def is_positive(value: Any) -> bool:
    """Whether it is a finite number above 0."""
    return is_number(value) and value > 0


def attempt(key: str, make: Callable[[], Any], problems: list[str]) -> Any:
    """What ``make`` gives; where it fails None, and what is wrong is added under the config's ``key``."""
    try:
        return make()
    except MMFTError as error:
        texts = error.problems if isinstance(error, ConfigError) else [str(error)]
        problems += [text if text.startswith(f'{key}: ') else f'{key}: {text}' for text in texts]
    except Exception as error:  # what torch, transformers or timm raise of a bad value may be anything
        problems.append(f'{key}: it cannot be built: {type(error).__name__}: {error}')
    return None


def part_problems(
    key: str, registry: Registry, settings: Any, default: str | None = None, given: Collection[str] = ()
) -> Iterator[str]:
    """A part whose type is not registered, or whose settings are not those that the type takes; nothing is built.

    Args:
        key: where in the config it stands.
        registry: of its kind.
        settings: its dict.
        default: the type of a dict that names none.
        given: arguments that do not come from the config.
    """
    if not isinstance(settings, Mapping):
        yield f'{key} = {settings!r}; expected a dict'
        return
    kind = settings.get('type', default)
    part = registry.get(kind)
    if part is None:
        known = f'is missing; expected one of {registry.names()}'
        yield f'{key}.type {known}' if kind is None else f'{key}.type: {registry.unknown(kind)}'
        return
    try:
        parameters = inspect.signature(part).parameters
    except (TypeError, ValueError):  # built-in callables have none
        return
    kinds = {parameter.kind for parameter in parameters.values()}
    for name in settings if inspect.Parameter.VAR_KEYWORD not in kinds else ():
        if name not in parameters and name != 'type':
            yield f'{key}.{name}: {kind} has no such setting{did_you_mean(name, parameters)}'
    for name, parameter in parameters.items():
        named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        if named and parameter.default is parameter.empty and name not in settings and name not in given:
            yield f'{key}.{name} is missing: {kind} needs it'
