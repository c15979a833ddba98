"""What the converters of ``mmft data`` have in common: arguments, the report on the screen, exit statuses."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Mapping
from typing import Any

from mmft.words import printable

__all__ = ['add_common', 'convert_and_show', 'share', 'show']


def share(text: str) -> float:
    """A number from 0 to 1, for argparse."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f'{text}: expected a share from 0 to 1')
    return value


def add_common(parser: argparse.ArgumentParser, seed: str = '') -> None:
    """``--on-error``, and ``--seed`` where something is chosen by it."""
    parser.add_argument(
        '--on-error',
        choices=('raise', 'skip'),
        default='raise',
        help='stop at the first bad record, or leave bad ones out, counted and named in left_out.jsonl',
    )
    if seed:
        parser.add_argument('--seed', type=int, default=0, help=f'of {seed} (default: 0)')


def show(report: Mapping[str, Any]) -> None:
    """Print what was written, what was not, and how a config names it."""
    for title, rows in report.get('tables', {}).items():
        print(f'{printable(title)}:')
        _columns([list(map(str, row)) for row in rows])
    counts = report['counts']
    kinds = sorted({kind for part in counts.values() for kind in part})
    rows = [['', *counts]]
    rows += [[kind, *(str(part.get(kind, 0)) for part in counts.values())] for kind in kinds]
    if len(kinds) != 1:
        rows.append(['all', *(str(sum(part.values())) for part in counts.values())])
    _columns(rows)
    for what, count in report.get('changed', {}).items():
        print(f'changed: {count} ({printable(what)})')
    for reason, count in report['left_out'].items():
        print(f'left out: {count} ({printable(reason)})')
    for warning in report.get('warnings', ()):
        print(f'warning: {printable(warning)}', file=sys.stderr)
    links = ', follow_links=True' if report.get('follow_links') else ''
    for name, path in report['files'].items():
        print(f'{name}: dataset=dict(ann_file={path!r}, image_root={report["image_root"]!r}{links})')
    if 'val' in report['files']:
        named = shlex.join([report['files']['val'], '--image-root', report['image_root']])
        print(f'to compare two models with it: mmft compare A B {named}')


def _columns(rows: list[list[str]]) -> None:
    widths = [max(len(row[n]) if n < len(row) else 0 for row in rows) for n in range(max(map(len, rows)))]
    for row in rows:
        first, *others = row
        cells = [f'{cell:>{width}}' for cell, width in zip(others, widths[1:], strict=False)]
        print(printable('  '.join([f'  {first:<{widths[0]}}', *cells]).rstrip()))


def convert_and_show(
    work: Callable[[], Mapping[str, Any]], after: Callable[[Mapping[str, Any]], None] | None = None
) -> int:
    """Convert and print the report. Errors of mmft are the command line's to print; exit status as there."""
    try:
        report = work()
    except OSError as error:
        print(f'error: {error.filename or ""}: {error.strerror or error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('interrupted: nothing was written', file=sys.stderr)
        return 130
    show(report)
    if after is not None:
        after(report)
    return 0
