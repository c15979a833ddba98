"""Input and output of a command that talks with people: a terminal, or a pipe."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO

from mmft.errors import MMFTError
from mmft.words import clipped, printable

__all__ = ['Screen', 'one_line']

_BYTE_ORDER_MARKS = ('\ufeff', '\xef\xbb\xbf')  # as UTF-8 reads it, and as a locale of one byte a character does
DIM, RED, OFF = '\033[2m', '\033[31m', '\033[0m'


class Screen:
    """Where a chat reads and writes.

    On a terminal there are a prompt, colours and line editing. Through a pipe, answers alone go to ``out``, each ending
    with a newline; notes and errors go to ``err``.
    """

    def __init__(self, source: TextIO | None = None, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self.source, self.out, self.err = source or sys.stdin, out or sys.stdout, err or sys.stderr
        self.terminal = self.source.isatty() and self.out.isatty()
        with contextlib.suppress(AttributeError):  # a StringIO
            # A byte that is not text must not end a chat, and may be part of a file name.
            self.source.reconfigure(errors='surrogateescape')
        self._color = self.terminal and not os.environ.get('NO_COLOR')
        if self.terminal:
            with contextlib.suppress(ImportError):  # not everywhere
                import readline  # noqa: F401 (gives input() its arrow keys)

    def read(self, prompt: str) -> str:
        """The next line; one that ends with a backslash goes on in the next.

        Raises:
            EOFError: there is none.
        """
        lines = [self._line(prompt)]
        while lines[-1].endswith('\\'):
            lines[-1] = lines[-1][:-1]
            with contextlib.suppress(EOFError):
                lines.append(self._line('. '))
        return '\n'.join(lines)

    def _line(self, prompt: str) -> str:
        if self.terminal:
            return input(prompt)
        line = self.source.readline()
        if not line:
            raise EOFError
        for mark in _BYTE_ORDER_MARKS:  # editors and shells of Windows begin files with it
            line = line.removeprefix(mark)
        return line.rstrip('\r\n')

    def piece(self, text: str) -> None:
        """A piece of an answer, at once."""
        self.out.write(printable(text))
        self.out.flush()

    def note(self, text: str) -> None:
        """Something that is not an answer."""
        self._say(text, DIM)

    def problem(self, text: str) -> None:
        """An error, on one line."""
        self._say(f'error: {" ".join(text.split())}', RED)

    def _say(self, text: str, code: str) -> None:
        text = printable(text)
        print(f'{code}{text}{OFF}' if self._color else text, file=self.out if self.terminal else self.err, flush=True)


def one_line(error: Exception) -> str:
    """What went wrong, what was expected and what to do, on one line."""
    if not isinstance(error, MMFTError):
        return clipped(f'{type(error).__name__}: {error}', 300)
    what = error.what if not getattr(error, 'file', None) else f'{error.file}: {error.bare}'
    expected = f' (expected: {error.expected})' if error.expected else ''
    return what + expected + (f'; {error.fix}' if error.fix else '')
