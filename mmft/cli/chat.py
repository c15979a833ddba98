"""``mmft chat DIR | CONFIG CKPT | --url URL``: talk with a model about pictures."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

__all__ = ['add_answering', 'add_arguments', 'run', 'settings_of', 'target_of']


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``chat``."""
    parser.add_argument(
        'target',
        nargs='*',
        metavar='DIR | CONFIG CKPT',
        help='a model directory, or the config of a training and its checkpoint, which is exported first, into a cache',
    )
    parser.add_argument('--url', help='a server that speaks the OpenAI API, such as http://127.0.0.1:23333')
    parser.add_argument(
        '--image', action='append', default=[], metavar='PATH', help='a picture for the first question; may be repeated'
    )
    parser.add_argument('--system', metavar='TEXT', help="a system message (default: the chat template's own)")
    add_answering(parser, max_new_tokens=512)
    parser.add_argument('--model', help="which of the server's models")
    parser.add_argument('--base', metavar='DIR', help='what a LoRA directory was trained on, if not where it says')
    parser.add_argument('--cfg-options', nargs='+', metavar='KEY=VALUE', default=[], help='change CONFIG')


def add_answering(parser: argparse.ArgumentParser, max_new_tokens: int) -> None:
    """Options that every command with answers has."""
    parser.add_argument(
        '--max-new-tokens', type=int, default=max_new_tokens, metavar='N', help=f'default: {max_new_tokens}'
    )
    parser.add_argument('--temperature', type=float, default=0.0, metavar='T', help='0, the default: no chance')
    parser.add_argument('--top-p', type=float, default=1.0, metavar='P', help='default: 1')
    parser.add_argument('--seed', type=int, help='of the answers, with a temperature')
    parser.add_argument('--device', help='such as cpu or cuda:1 (default: the GPU if there is one)')
    parser.add_argument('--dtype', default='auto', help='of the weights: float32, bfloat16... (default: as stored)')
    parser.add_argument(
        '--api-key', default=os.environ.get('MMFT_API_KEY'), metavar='KEY', help='of a server (default: $MMFT_API_KEY)'
    )


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """What ``Answerer.stream`` takes."""
    return {name: getattr(args, name) for name in ('max_new_tokens', 'temperature', 'top_p', 'seed')}


def target_of(args: argparse.Namespace) -> Any:
    """What ``open_answerer`` takes.

    Raises:
        ConfigError: none is named, or more than one.
    """
    from mmft.errors import ConfigError

    given = [*args.target, *([args.url] if args.url else [])]
    if not 1 <= len(given) <= (1 if args.url else 2):
        raise ConfigError(f'{len(given)} models: {" ".join(given) or "none"}', expected='DIR, CONFIG CKPT or --url URL')
    if len(given) == 1:
        return given[0]
    from mmft.cli.configs import load_config

    return load_config(given[0], args.cfg_options), given[1]


def run(args: argparse.Namespace) -> int:
    """Chat until the input ends."""
    from mmft.serve.answerer import open_answerer
    from mmft.serve.chat import Chat

    options = {name: getattr(args, name) for name in ('base', 'device', 'dtype', 'api_key', 'model')}
    with open_answerer(target_of(args), **options) as answerer:
        chat = Chat(answerer, settings=settings_of(args), system=args.system)
        try:
            chat.show(args.image)
            return chat.run()
        except BrokenPipeError:  # whoever read the answers has enough of them
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
