"""Reading files of other programs: whatever malformed content does to the reading code becomes one error of mmft."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from mmft.errors import CheckpointError, MMFTError, first_line
from mmft.words import clipped

__all__ = ['reading']

_JUNK = (TypeError, ValueError, AttributeError, LookupError, ArithmeticError, RecursionError, re.error)


@contextmanager
def reading(what: str) -> Iterator[None]:
    """The block reads values of a file: null, text or a list in the place of a number is reported as the file's fault.

    Args:
        what: the file, for the message.

    Raises:
        CheckpointError: the block failed in such a way. Errors of mmft pass as they are.

    >>> with reading('config.json'):
    ...     'four' * 'heads'
    Traceback (most recent call last):
    mmft.errors.CheckpointError: config.json cannot be read: can't multiply sequence by non-int of type 'str'
      expected: the file that was published with the weights
      to do:    download it again
    """
    try:
        yield
    except MMFTError:
        raise
    except _JUNK as error:
        lacks = type(error) is KeyError
        problem = f'has no {clipped(error)}' if lacks else f'cannot be read: {clipped(first_line(error))}'
        raise CheckpointError(
            f'{what} {problem}', expected='the file that was published with the weights', fix='download it again'
        ) from error
