"""Every error a user can meet. Each says what came, what was expected and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mmft.words import printable

__all__ = ['CheckpointError', 'ConfigError', 'DataError', 'MMFTError', 'ServerError', 'ShapeError', 'TrainingError',
           'first_line']  # fmt: skip


class MMFTError(Exception):
    """Base of all errors that mmft raises on purpose.

    Args:
        what: what came, with the offending value. (Control characters in any text are made visible: values come from
            files, and errors go to terminals and logs.)
        expected: what was expected instead.
        fix: what the user can do.

    >>> print(MMFTError('3 pictures', expected='2 <image>', fix='add one'))
    3 pictures
      expected: 2 <image>
      to do:    add one
    """

    def __init__(self, what: str, *, expected: str = '', fix: str = '') -> None:
        self.what, self.expected, self.fix = map(printable, (what, expected, fix))
        lines = [self.what]
        if expected:
            lines.append(f'  expected: {self.expected}')
        if fix:
            lines.append(f'  to do:    {self.fix}')
        super().__init__('\n'.join(lines))

    def __reduce__(self):
        # Errors cross process borders (data workers): rebuild from the finished message, keep the fields.
        return _rebuild, (type(self), str(self), self.__dict__.copy())


def _rebuild(cls: type[MMFTError], message: str, state: dict) -> MMFTError:
    error = cls.__new__(cls)
    Exception.__init__(error, message)
    error.__dict__.update(state)
    return error


class ConfigError(MMFTError, ValueError):
    """A config that cannot work."""

    @classmethod
    def gather(cls, problems: Sequence[MMFTError | str]) -> ConfigError:
        """One error that lists every problem of a config at once, those of gathered ones too."""
        if len(problems) == 1:
            return problems[0] if isinstance(problems[0], cls) else cls(str(problems[0]))
        texts = [text for p in problems for text in (p.problems if isinstance(p, cls) else [str(p)])]
        error = cls(f'{len(texts)} problems in the config:\n' + '\n'.join(f'{i}. {t}' for i, t in enumerate(texts, 1)))
        error._gathered = texts
        return error

    @property
    def problems(self) -> list[str]:
        """The text of each problem.

        >>> ConfigError.gather(['no model', ConfigError.gather(['no data', 'no time'])]).problems
        ['no model', 'no data', 'no time']
        """
        return getattr(self, '_gathered', None) or [str(self)]


class DataError(MMFTError, ValueError):
    """A sample, annotation file or picture that cannot be used.

    Args:
        file: the annotation file (or picture) the problem is in.
        line: its line, counted from 1.
    """

    def __init__(
        self, what: str, *, file: str | Path | None = None, line: int | None = None, expected: str = '', fix: str = ''
    ) -> None:
        self.file, self.line, self.bare = (str(file) if file is not None else None), line, printable(what)
        where = '' if file is None else f'{file}:{line}: ' if line is not None else f'{file}: '
        super().__init__(where + what, expected=expected, fix=fix)

    def at(self, file: str | Path, line: int | None = None) -> DataError:
        """The same problem, with the place in the annotation file that led to it."""
        what = self.bare if self.file is None else f'{self.file}: {self.bare}'
        return DataError(what, file=file, line=line, expected=self.expected, fix=self.fix)


class CheckpointError(MMFTError, ValueError):
    """Weights that are missing, misnamed, of a wrong shape or of another base."""


class ServerError(MMFTError, RuntimeError):
    """A server that cannot start, does not answer, or answers with an error."""


class ShapeError(MMFTError, ValueError):
    """Tensors whose sizes do not fit together, such as image tokens and image features."""


class TrainingError(MMFTError, RuntimeError):
    """Training that cannot go on: a loss that is not a number, a part that does not move."""


def first_line(error: BaseException) -> str:
    """What another library's error says, without what follows: often advice that is not ours. Its type if it has none.

    torch's ``weights_only`` advises, in its first line, to run what a pickle names; of that, what it names is left.

    >>> first_line(ValueError('no zip' + chr(10) + 'load it with weights_only=False')), first_line(OSError())
    ('no zip', 'OSError')
    >>> first_line(ValueError('Weights only load failed... GLOBAL posix.system whose module posix is blocked'))
    'it asks to run posix.system; only tensors and plain values are read'
    """
    text = str(error)
    if text.startswith('Weights only load failed'):
        named = re.search(r'GLOBAL (\S+)', text)
        what = f'it asks to run {named[1]}' if named else 'it is damaged, or holds more than data'
        return f'{what}; only tensors and plain values are read'
    return next(iter(text.splitlines()), '') or type(error).__name__
