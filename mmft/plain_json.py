"""Settings as plain JSON: how checkpoints and model directories hold what a Python config says.

What Python has and JSON has not: a tuple becomes a list (settings compare equal either way: ``same_value``), a class is
by now the name that the registries know (``resolve_code``). Infinity, NaN, keys that are not text and any other object
are an error where a model is rebuilt from them; elsewhere, where they are only shown, they are kept as text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from mmft.errors import ConfigError
from mmft.words import clipped

__all__ = ['REBUILT', 'config_json', 'is_json', 'model_json']

REBUILT = ('model', 'encoder', 'pretrained', 'dtype', 'tune', 'init_from')
"""What of a config a model is rebuilt from: by export, chat, compare, webui and serve."""


def is_json(value: Any) -> bool:
    """Whether JSON can hold a value and give it back as it is.

    >>> is_json({'a': [1, None]}), is_json({'a': (1,)}), is_json({1: 'a'}), is_json(float('inf'))
    (True, False, False, False)
    """
    try:
        return json.loads(json.dumps(value, allow_nan=False)) == value
    except (TypeError, ValueError, RecursionError):
        return False


def config_json(config: Mapping[str, Any]) -> dict[str, Any]:
    """A whole config as JSON values.

    Raises:
        ConfigError: lists every value below ``REBUILT`` that JSON cannot hold.

    >>> config_json({'model': {'size': (2, 3)}, 'optim_wrapper': {'max_norm': float('inf')}})
    {'model': {'size': [2, 3]}, 'optim_wrapper': {'max_norm': 'inf'}}
    """
    if problems := [problem for name in REBUILT for problem in _problems(config.get(name), name)]:
        raise ConfigError.gather(problems)
    return {str(name): _plain(value) for name, value in config.items()}


def model_json(model: Mapping[str, Any]) -> dict[str, Any]:
    """The ``model`` dict of a config as JSON values.

    Raises:
        ConfigError: lists every value that JSON cannot hold.
    """
    return config_json({'model': model})['model']


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if _is_scalar(value) else str(value)


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, (str, int)) or (isinstance(value, float) and math.isfinite(value))


def _problems(value: Any, name: str) -> Iterator[ConfigError]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if isinstance(key, str):
                yield from _problems(item, f'{name}.{key}')
            else:
                yield _no_json(f'{name}: the key {clipped(repr(key))}')
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from _problems(item, f'{name}[{number}]')
    elif not _is_scalar(value):
        yield _no_json(f'{name} = {clipped(repr(value))}')


def _no_json(what: str) -> ConfigError:
    return ConfigError(
        f'{what} cannot be written as JSON, in which checkpoints and model directories hold a config',
        expected='finite numbers, text, True, False, None, and lists and dicts of them, with text as keys',
        fix='write it as one of these in the config, and let the part that takes it convert it',
    )
