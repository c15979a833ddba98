"""What keeps a config from being built: what transformers, timm and torch refuse, as an error of ours, and what they
would do that a config may not ask for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from mmft.errors import ConfigError
from mmft.words import clipped

__all__ = ['check_attention', 'refused_by']

_PACKAGES = {'flash_attention_2': 'flash_attn', 'flash_attention_3': 'flash_attn_interface'}

# KeyError: an unknown activation or attention; AttributeError: a dtype that torch does not have; ImportError: one
# whose package is missing; AssertionError: torch's, of a padding id beyond the table. Running out of memory is a
# RuntimeError, and not the config's fault.
_REFUSALS = (AssertionError, AttributeError, ImportError, KeyError, TypeError, ValueError, ZeroDivisionError,
             StrictDataclassError)  # fmt: skip


@contextmanager
def refused_by(library: str, name: str, expected: str) -> Iterator[None]:
    """Raise ``ConfigError`` for whatever ``library`` raises of a bad value inside; our own errors pass.

    Args:
        name: of the part.
        expected: what the library would take.

    >>> with refused_by('transformers', 'Llama', 'an activation of transformers'):
    ...     raise KeyError('zz')
    Traceback (most recent call last):
    mmft.errors.ConfigError: Llama: transformers refuses this config: 'zz'
      expected: an activation of transformers
    """
    try:
        yield
    except ConfigError:
        raise
    except _REFUSALS as error:
        raise ConfigError(f'{name}: {library} refuses this config: {error}', expected=expected) from error


def check_attention(name: str, attention: Any) -> None:
    """Refuse an ``attn_implementation`` that transformers would fetch as a program from a hub, or does not know.

    It does so of a name with a slash, and of ``flash_attention_2`` and the like where their package is missing. (A
    model directory may name it.)

    Args:
        name: of the part.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    known = ['eager', *ALL_ATTENTION_FUNCTIONS.valid_keys()]
    if attention not in known:
        what = f'{name} refuses this config: attn_implementation = {clipped(repr(attention))}'
        raise ConfigError(what, expected=f'one of {known}', fix="remove it: 'sdpa' is the default")
    if attention.startswith('flash_attention_') and find_spec(_PACKAGES.get(attention, 'flash_attn')) is None:
        package = _PACKAGES.get(attention, 'flash_attn')
        raise ConfigError(
            f'{name}: attn_implementation = {attention!r}, but {package} is not installed',
            fix="install it, or take 'sdpa'",
        )
