"""Log lines without colour codes wherever no terminal reads them."""

from __future__ import annotations

import copy
import logging
import re

__all__ = ['PlainFormatter', 'without_colours']

_COLOUR = re.compile(r'\x1b\[[0-9;]*m')


class PlainFormatter(logging.Formatter):
    """What another formatter writes, without its colours. A record may bring a text of its own for it, ``plain``."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self.inner = inner

    def format(self, record: logging.LogRecord) -> str:
        if hasattr(record, 'plain'):
            record = copy.copy(record)
            record.msg, record.args = record.plain, ()
        return _COLOUR.sub('', self.inner.format(record))


def without_colours(logger: logging.Logger) -> None:
    """Give the handlers of a logger that write to files and pipes a ``PlainFormatter``."""
    for handler in logger.handlers:
        terminal = getattr(getattr(handler, 'stream', None), 'isatty', lambda: False)()
        if not terminal and handler.formatter is not None and not isinstance(handler.formatter, PlainFormatter):
            handler.setFormatter(PlainFormatter(handler.formatter))
