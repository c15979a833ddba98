"""``mmft chat MODEL``: talk with a model about pictures."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmft.cli.options import add_cfg_options
from mmft.cli.targets import MODEL, grouped, named_target

__all__ = [
    'INTERMIXED',
    'add_answering',
    'add_arguments',
    'add_models',
    'key_for',
    'models_of',
    'run',
    'settings_of',
    'target_of',
]

INTERMIXED = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``chat``."""
    parser.add_argument(
        'target',
        nargs='*',
        metavar='MODEL',
        help=f'{MODEL}, CONFIG CKPT, or the URL of a server with the OpenAI API; what is no directory is exported '
        'first, into a cache',
    )
    parser.add_argument('--url', help='the same as MODEL, for a server: such as http://127.0.0.1:23333')
    parser.add_argument(
        '--image', action='append', default=[], metavar='PATH', help='a picture for the first question; may be repeated'
    )
    parser.add_argument('--system', metavar='TEXT', help="a system message (default: the chat template's own)")
    add_answering(parser, max_new_tokens=512)
    parser.add_argument('--model', help="which of the server's models")
    parser.add_argument('--base', metavar='DIR', help='what a LoRA directory was trained on, if not where it says')
    add_cfg_options(parser, 'change CONFIG')


def add_answering(parser: argparse.ArgumentParser, max_new_tokens: int) -> None:
    """Options that every command with answers has."""
    parser.add_argument(
        '--max-new-tokens', type=int, default=max_new_tokens, metavar='N', help=f'default: {max_new_tokens}'
    )
    parser.add_argument('--temperature', type=float, default=0.0, metavar='T', help='default: 0, greedy')
    parser.add_argument('--top-p', type=float, default=1.0, metavar='P', help='default: 1')
    parser.add_argument('--seed', type=int, help='of the answers, with a temperature')
    parser.add_argument('--device', help='such as cpu or cuda:1 (default: the GPU if there is one)')
    parser.add_argument('--dtype', default='auto', help='of the weights: float32, bfloat16... (default: as stored)')
    parser.add_argument(
        '--api-key',
        metavar='KEY',
        help='of a server; @FILE: the line in it, which no process list shows (default: $MMFT_API_KEY, for servers of '
        'this machine)',
    )


def add_models(parser: argparse.ArgumentParser, nargs: int | str = '+') -> None:
    """Options that every command with several models has; see ``models_of``.

    Args:
        nargs: how many models there are, where that is known: options before the models then do not take them in.
    """
    parser.add_argument('--config', help='of a model that is a checkpoint (default: the config that is stored in it)')
    parser.add_argument('--models', nargs=nargs, metavar='NAME', help="which of a server's models; '-': the only one")
    parser.add_argument(
        '--api-keys', nargs=nargs, metavar='KEY', help="one for each model, where servers have their own; '-': none"
    )
    parser.add_argument('--base', metavar='DIR', help='what LoRA directories were trained on, if not where they say')
    add_cfg_options(parser, 'change the config')


def models_of(
    args: argparse.Namespace, named: Sequence[str], counts: Sequence[int]
) -> list[tuple[Any, dict[str, Any]]]:
    """What ``open_answerer`` takes for each model: the target, and the options.

    Args:
        named: the words of the models: see ``grouped``.
        counts: how many models there may be.

    Raises:
        ConfigError: another number of them, or of what belongs to each.
        CheckpointError: as ``find_target``.
    """
    from mmft.errors import ConfigError
    from mmft.words import count_of

    models = grouped(named)
    if len(models) not in counts:
        numbers = ' or '.join(('none', 'one', 'two')[count] for count in counts)
        raise ConfigError(
            count_of(len(models), 'model'), expected=f'{numbers}: directories, checkpoints, trainings or URLs'
        )
    if args.config is not None and not any(len(model) == 1 and _may_be_checkpoint(model[0]) for model in models):
        raise ConfigError(f'--config {args.config} without a checkpoint', fix='name iter_N.pth of its run as a model')
    for option in ('names', 'models', 'api_keys'):
        given = getattr(args, option)
        if given and len(given) != len(models):
            what = f'{len(given)} --{option.replace("_", "-")}: {" ".join(given) if option != "api_keys" else "..."}'
            raise ConfigError(what, expected=f'{len(models)}, one for each model')
    targets = [named_target(model, args, args.config) for model in models]
    names = args.models or ['-'] * len(targets)
    keys = args.api_keys or [args.api_key] * len(targets)
    shared = {name: getattr(args, name) for name in ('base', 'device', 'dtype')}
    return [
        (target, {**shared, 'model': None if name == '-' else name, 'api_key': key_for(target, key)})
        for target, name, key in zip(targets, names, keys, strict=True)
    ]


def _may_be_checkpoint(word: str) -> bool:
    return word.endswith('.pth') or os.path.isdir(word)


def key_for(target: Any, given: str | None) -> str | None:
    """The key that is sent to a target: the one that was given for it ('-': none), else ``$MMFT_API_KEY``.

    The variable is that of ``mmft serve`` too, so it is the key of this machine's own server, and sent to no other.

    Raises:
        ConfigError: a file without a key.
    """
    from mmft.export.model_path import is_url
    from mmft.talk.remote_answerer import is_loopback

    if not is_url(target) or given == '-':
        return None
    if given is None:
        return os.environ.get('MMFT_API_KEY') if is_loopback(target) else None
    return _key_in(given[1:]) if given.startswith('@') else given


def _key_in(file: str) -> str:
    from mmft.errors import ConfigError

    try:
        key = Path(file).read_text(encoding='utf-8').strip()
    except (OSError, ValueError) as error:
        raise ConfigError(f'--api-key @{file}: {error}', expected='a file with a key') from error
    if not key or len(key.split()) > 1:
        raise ConfigError(f'--api-key @{file}: {len(key.split())} words', expected='one line, the key')
    return key


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """What ``Answerer.stream`` takes."""
    return {name: getattr(args, name) for name in ('max_new_tokens', 'temperature', 'top_p', 'seed')}


def target_of(args: argparse.Namespace) -> Any:
    """What ``open_answerer`` takes.

    Raises:
        ConfigError: none is named, or more than one.
        CheckpointError: as ``find_target``.
    """
    from mmft.errors import ConfigError
    from mmft.words import count_of

    given = [*grouped(args.target), *([[args.url]] if args.url else [])]
    if len(given) != 1:
        words = ' '.join(word for model in given for word in model)
        raise ConfigError(
            f'{count_of(len(given), "model")}: {words or "none"}',
            expected='one: a directory, a checkpoint, the folder of a training, CONFIG CKPT, or a URL',
        )
    return named_target(given[0], args)


def run(args: argparse.Namespace) -> int:
    """Chat until the input ends."""
    from mmft.talk.open_answerer import open_answerer
    from mmft.talk.terminal_chat import Chat

    target = target_of(args)
    options = {name: getattr(args, name) for name in ('base', 'device', 'dtype', 'model')}
    with open_answerer(target, **options, api_key=key_for(target, args.api_key)) as answerer:
        chat = Chat(answerer, settings=settings_of(args), system=args.system)
        try:
            chat.show(args.image)
            return chat.run()
        except BrokenPipeError:  # the reader of the answers has closed the pipe
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
