"""``mmft COMMAND ...``: finds the command's module, runs it, and turns errors into messages and exit statuses.

Exit status: 0 done, 1 an error that mmft explains, 2 wrong command line, 130 interrupted, 141 the reader of the output
has gone (``| head``), 128 + n training ended by signal n (143 SIGTERM); anything else is a bug and shows its traceback.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from mmft.words import did_you_mean, printable

__all__ = ['COMMANDS', 'main']

COMMANDS = {
    'train': ('mmft.cli.train', 'fine-tune the model of a config'),
    'pth_to_hf': ('mmft.cli.pth_to_hf', 'write a checkpoint as a model directory for LMDeploy and others'),
    'list-cfg': ('mmft.cli.list_cfg', 'list the configs'),
    'check-data': ('mmft.cli.check_data', 'check the data of a config: every problem at once, a page of samples'),
    'data': ('mmft.cli.data', 'turn data sets, or a folder of pictures, into annotation files'),
    'serve': ('mmft.cli.serve', 'serve a model: an OpenAI-compatible API for a directory or a checkpoint'),
    'chat': ('mmft.cli.chat', 'talk with a model about pictures in the terminal'),
    'webui': ('mmft.cli.webui', 'a page in the browser: chat with one model, or with two side by side'),
    'compare': ('mmft.cli.compare', 'ask two models the same questions: a page with both answers and their scores'),
    'copy-cfg': ('mmft.cli.copy_cfg', 'copy a config into one file, bases included, to change it'),
}
"""Command -> (module, one line of help). A module has ``add_arguments(parser)`` and ``run(args)``; it is imported only
when its command is given, and imports torch and the rest only in ``run``, so that ``--help`` is instant."""


OPENERS = ('train', 'pth_to_hf', 'serve', 'chat', 'webui', 'compare')
"""Commands that open models."""


class Parser(argparse.ArgumentParser):
    """argparse's own; where a word is none of those that it takes, the nearest of them is named."""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            error.message += did_you_mean(value, action.choices)
            raise


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line.

    Args:
        argv: without the program's name; None takes ``sys.argv``.

    Returns:
        The exit status.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = Parser('mmft', description='Fine-tune and export vision-language models.')
    commands = parser.add_subparsers(dest='command', metavar='COMMAND', required=True)
    chosen, parse = (argv[0] if argv else None), None
    for name, (module, help_text) in COMMANDS.items():
        sub = commands.add_parser(name, help=help_text, description=help_text[0].upper() + help_text[1:] + '.')
        if name == chosen:
            command = importlib.import_module(module)
            command.add_arguments(sub)
            # Words of which there may be more or fewer: options may stand anywhere among them.
            parse = sub.parse_known_intermixed_args if getattr(command, 'INTERMIXED', False) else None
            if name in OPENERS:
                sub.add_argument(
                    '--allow-code', action='append', default=[], metavar='MODULE',
                    help='a module of your own that a directory asks for, such as mypackage.towers; may be repeated',
                )  # fmt: skip
            sub.add_argument(
                '--traceback', action='store_true', help='show where an error came from (also MMFT_TRACE=1)'
            )
    if parse:
        args, unknown = parse(argv[1:], argparse.Namespace(command=chosen))
    else:
        args, unknown = parser.parse_known_args(argv)
    if unknown:
        from mmft.cli.other_flags import unknown_options

        sub = commands.choices[args.command]
        sub.error(unknown_options(unknown, argv, sub))
    try:
        with _printable_logs():
            status = _run(args)
        sys.stdout.flush()  # here, where it can still be caught, and not when the interpreter ends
    except BrokenPipeError:
        if not _reader_left():  # another pipe broke, such as a data worker's
            raise
        return 141
    return status


@contextlib.contextmanager
def _printable_logs() -> Iterator[None]:
    """Logs and warnings, of other libraries too, may hold text from files: control characters are escaped."""
    make, write = logging.getLogRecordFactory(), warnings.formatwarning

    def record(*args: Any, **kwargs: Any) -> logging.LogRecord:
        made = make(*args, **kwargs)
        # The label mask's own colours stay.
        made.msg, made.args = re.sub(r'\\x1b\[(32|90|0)m', '\x1b[\\1m', printable(made.getMessage())), ()
        if made.exc_info:
            made.exc_text = printable(logging.Formatter().formatException(made.exc_info))
        return made

    logging.setLogRecordFactory(record)
    warnings.formatwarning = lambda *args, **kwargs: printable(write(*args, **kwargs))
    try:
        yield
    finally:
        logging.setLogRecordFactory(make)
        warnings.formatwarning = write


def _reader_left() -> bool:
    """Whether nobody reads what is printed any more; the rest of it is then dropped silently."""
    try:
        print(flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def _run(args: argparse.Namespace) -> int:
    from mmft.errors import MMFTError

    try:
        if getattr(args, 'allow_code', None):
            from mmft.user_code import allow_code

            allow_code(args.allow_code, '--allow-code')
        status = importlib.import_module(COMMANDS[args.command][0]).run(args)
    except MMFTError as error:
        if args.traceback or os.environ.get('MMFT_TRACE'):
            raise
        print(f'\nerror: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('\ninterrupted', file=sys.stderr)
        return 130
    return int(status or 0)


if __name__ == '__main__':
    sys.exit(main())
