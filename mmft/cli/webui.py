"""``mmft webui A [B]``: a page in the browser, one or two models that are asked the same questions about pictures."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from mmft.cli.chat import add_answering, add_models, models_of, settings_of
from mmft.cli.targets import MODEL

__all__ = ['INTERMIXED', 'add_arguments', 'run']

INTERMIXED = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``webui``."""
    parser.add_argument(
        'targets',
        nargs='*',
        metavar='MODEL',
        help=f'one or two, before and after as a rule: {MODEL}, CONFIG CKPT, or the URL of a server with the OpenAI '
        'API',
    )
    parser.add_argument('--names', nargs='+', metavar='NAME', help='what the page calls the models')
    parser.add_argument(
        '--examples', metavar='DATASET', help='an annotation file, a config (its val set) or a folder of pictures'
    )
    parser.add_argument('--image-root', metavar='FOLDER', help='of an annotation file (default: its folder)')
    parser.add_argument('--host', default='127.0.0.1', help='0.0.0.0: for other machines too (default: 127.0.0.1)')
    parser.add_argument('--port', type=int, default=7860, help='0: any that is free (default: 7860)')
    parser.add_argument(
        '--auth',
        action='append',
        default=[],
        metavar='USER:PASSWORD',
        help='ask for this user and password; may be repeated; @FILE: a file of such lines, hidden from process lists',
    )
    parser.add_argument('--open', action='store_true', help='open the page in a browser of this machine')
    parser.add_argument('--system', metavar='TEXT', help="a system message (default: the chat template's own)")
    add_answering(parser, max_new_tokens=512)
    add_models(parser)


def run(args: argparse.Namespace) -> int:
    """Serve the page until stopped; 0 after SIGTERM, 130 after Ctrl-C."""
    from mmft.errors import ConfigError
    from mmft.ports import bound_socket
    from mmft.talk.webui_host import LOOPBACK, parse_auth
    from mmft.words import printable

    if importlib.util.find_spec('gradio') is None:
        raise ConfigError('gradio is not installed', fix="pip install 'mmft[webui]'")
    if ':' in args.host:
        raise ConfigError(f'--host {args.host}', expected='a name or an IPv4 address', fix='gradio knows no IPv6')
    auth, models = parse_auth(args.auth), models_of(args, args.targets, (1, 2))
    with contextlib.ExitStack() as stack:
        # First of all, so that no model is loaded before the port turns out to be taken.
        with contextlib.closing(bound_socket(args.host, args.port)) as held:
            port = held.getsockname()[1]
            examples = _examples(args)
            answerers = [stack.enter_context(_open(target, options)) for target, options in models]
            from mmft.talk.webui import WebUI

            page = WebUI(answerers, args.names or _names(args, answerers), examples, settings_of(args), args.system)
        url = page.start(args.host, port, auth, args.open)
        stack.callback(page.close)
        if args.host not in LOOPBACK and not auth:
            print(
                'Anyone who can reach this machine can use the page; --auth USER:PASSWORD sets a password.', flush=True
            )
        print(printable(f'{" and ".join(page.names)}: {url}  (Ctrl-C stops it)'), flush=True)
        return _wait()


def _open(target: Any, options: dict[str, Any]) -> Any:
    from mmft.talk.open_answerer import open_answerer

    print(f'opening {target if isinstance(target, str) else target[1]}', file=sys.stderr)
    return open_answerer(target, **options)


def _names(args: argparse.Namespace, answerers: list[Any]) -> list[str] | None:
    """The directories as they were given, where their last parts are the same."""
    same = len({answerer.name for answerer in answerers}) < len(answerers)
    return args.targets if same and len(set(args.targets)) == len(answerers) else None


def _examples(args: argparse.Namespace) -> Any:
    if args.examples is None:
        return None
    from mmft.cli.compare import dataset_of
    from mmft.talk.examples import Examples
    from mmft.words import count_of, printable

    if Path(args.examples).is_dir():
        return Examples(args.examples)
    found = Examples(dataset_of(args.examples, args.image_root, args.cfg_options), Path(args.examples).name)
    if found.left_out:
        print(printable(f'{count_of(found.left_out, "record")} of {args.examples} left out: mmft check-data says why'))
    return found


def _wait() -> int:
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    try:
        while not ended.wait(1):
            pass
    except KeyboardInterrupt:
        return 130
    return 0
