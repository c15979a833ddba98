"""Checks that the arguments of all kinds of parts share. Each reports every bad value at once, by the argument's name.

torch silently takes many a wrong number (a network of no layer, ``top_k=1.5``), and names no argument of the others.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from mmft.errors import ConfigError
from mmft.words import clipped

__all__ = ['check_counts', 'check_numbers', 'check_rates', 'count_in_environment', 'is_number', 'is_whole',
           'value_problem']  # fmt: skip


def is_whole(value: Any, least: int | None = None) -> bool:
    """Whether it is an int, at least ``least``. ``True`` and 2.0 are not: in a config they are mistakes.

    >>> is_whole(3), is_whole(0, least=1), is_whole(True), is_whole(2.0)
    (True, False, False, False)
    """
    return isinstance(value, int) and not isinstance(value, bool) and (least is None or value >= least)


def is_number(value: Any, least: float | None = None) -> bool:
    """Whether it is a finite int or float from ``least``, and no ``bool``.

    >>> is_number(0.5), is_number(-1, least=0), is_number('1'), is_number(float('nan'))
    (True, False, False, False)
    """
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    # Not math.isfinite, which fails on an int that no float can hold.
    return plain and abs(value) <= sys.float_info.max and (least is None or value >= least)


def value_problem(name: str, value: Any, fits: bool, expected: str) -> list[str]:
    """What to say of a value that does not fit; nothing of one that does.

    >>> value_problem('seed', -1, False, 'a whole number from 0')
    ['seed = -1; expected a whole number from 0']
    """
    return [] if fits else [f'{name} = {value!r}; expected {expected}']


def check_counts(name: str, **counts: int) -> None:
    """Sizes and counts are whole numbers from 1.

    Args:
        name: of the part, for the message.
        counts: by the name of the argument. One that may be None is given as what None stands for, or left out.

    Raises:
        ConfigError: names every one that is not.

    >>> check_counts('MLP', depth=2)
    >>> check_counts('MLP', depth=0)
    Traceback (most recent call last):
    mmft.errors.ConfigError: MLP: depth 0
      expected: a whole number from 1
    """
    _check(name, counts, lambda value: is_whole(value, least=1), 'a whole number from 1')


def check_numbers(name: str, least: float | None = None, **numbers: float) -> None:
    """Rates, weights and scales are finite numbers, from ``least`` where that is given.

    Raises:
        ConfigError: names every one that is not.
    """
    expected = 'a number' if least is None else f'a number from {least}'
    _check(name, numbers, lambda value: is_number(value, least), expected)


def check_rates(name: str, **rates: float) -> None:
    """Rates at which things are dropped are from 0 to below 1: what is left is divided by what they leave.

    Raises:
        ConfigError: names every one that is not.
    """
    _check(name, rates, lambda value: is_number(value, least=0) and value < 1, 'a number from 0 to below 1')


def count_in_environment(name: str, default: int, least: int = 0, environment: Mapping[str, str] = os.environ) -> int:
    """A number that a launcher put into the environment; ``default`` where it is not set or empty.

    Raises:
        ConfigError: it is not a whole number from ``least``.

    >>> count_in_environment('RANK', 0, environment={'RANK': '3'})
    3
    >>> count_in_environment('WORLD_SIZE', 1, least=1, environment={'WORLD_SIZE': 'two'})
    Traceback (most recent call last):
    mmft.errors.ConfigError: WORLD_SIZE='two' in the environment
      expected: a whole number from 1, which a launcher sets
      to do:    unset WORLD_SIZE, or let torchrun, deepspeed, srun or mpirun set it
    """
    text = environment.get(name) or str(default)
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) >= least):
        raise ConfigError(
            f'{name}={clipped(repr(text))} in the environment',
            expected=f'a whole number from {least}, which a launcher sets',
            fix=f'unset {name}, or let torchrun, deepspeed, srun or mpirun set it',
        )
    return int(text)


def _check(name: str, values: dict[str, Any], fits: Callable[[Any], bool], expected: str) -> None:
    wrong = [f'{name}: {key} {value!r}' for key, value in values.items() if not fits(value)]
    if wrong:
        raise ConfigError.gather([ConfigError(what, expected=expected) for what in wrong])
