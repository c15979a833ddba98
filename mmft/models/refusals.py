"""``refused_by``: what transformers, timm and torch say of a config that they cannot build, as an error of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.errors import StrictDataclassError

from mmft.errors import ConfigError

__all__ = ['refused_by']

# KeyError: an activation or attention it does not know; ImportError: one whose package is missing; AssertionError:
# torch's, of a padding id beyond the table. Running out of memory is a RuntimeError, and none of the config's doing.
_REFUSALS = (AssertionError, ImportError, KeyError, TypeError, ValueError, ZeroDivisionError, StrictDataclassError)


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
