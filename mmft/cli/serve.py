"""``mmft serve MODEL``: an OpenAI-compatible server for a model directory, or for a training."""

from __future__ import annotations

import argparse
import os
import shlex
from typing import Any

from mmft.cli.options import add_cfg_options
from mmft.cli.targets import MODEL, grouped, named_target
from mmft.words import count_of

__all__ = ['INTERMIXED', 'add_arguments', 'run']

INTERMIXED = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``serve``."""
    parser.add_argument(
        'model', nargs='*', metavar='MODEL', help=f'{MODEL}, or CONFIG CKPT; what no backend reads is exported first'
    )
    parser.add_argument('--config', help='the config of a training, with --checkpoint or a checkpoint as MODEL')
    parser.add_argument('--checkpoint', help='the same as MODEL')
    parser.add_argument('--base', metavar='DIR', help='what an adapter was trained on, if not where it says')
    add_cfg_options(parser, 'such as pretrained=PATH')
    parser.add_argument(
        '--backend',
        choices=('auto', 'lmdeploy', 'turbomind', 'pytorch', 'transformers', 'mmft'),
        default='auto',
        help='auto: LMDeploy where a GPU is and it runs the model, else transformers serve, else mmft itself; '
        "turbomind and pytorch are LMDeploy's engines (default: auto)",
    )
    parser.add_argument('--host', default='127.0.0.1', help='0.0.0.0: for other machines too (default: 127.0.0.1)')
    parser.add_argument('--port', type=int, default=8000, help='0: any that is free (default: 8000)')
    parser.add_argument(
        '--api-key',
        action='append',
        default=[],
        metavar='KEY',
        help='required of every request; may be given several times, or as MMFT_API_KEY in the environment',
    )
    parser.add_argument('--tp', type=int, default=1, metavar='N', help='GPUs that share one model (LMDeploy)')
    parser.add_argument('--replicas', type=int, default=1, metavar='N', help='servers beside each other')
    parser.add_argument('--session-len', type=int, metavar='N', help="tokens, answer included (default: the model's)")
    parser.add_argument('--max-batch-size', type=int, metavar='N', help='requests answered together (LMDeploy)')
    parser.add_argument('--queue', type=int, default=256, metavar='N', help='how many requests may wait (default: 256)')
    parser.add_argument('--model-name', help="what clients call it (default: the directory's name)")
    parser.add_argument('--image-root', metavar='DIR', help='let requests name pictures in this folder by path')
    parser.add_argument(
        '--picture-host',
        action='append',
        default=[],
        metavar='NAME',
        help='let requests name pictures at this host although its address is private; may be given several times',
    )
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda (default: auto)')
    parser.add_argument('--dtype', default='auto', help='of the weights (default: as stored)')
    parser.add_argument(
        '--trust-remote-code',
        action='store_true',
        help='serve an original InternVL2 directory as it is: LMDeploy then runs the Python files in it',
    )
    parser.add_argument('--cache', metavar='DIR', help='of exports (default: exports/ beside the checkpoint)')
    parser.add_argument('--start-timeout', type=float, default=1800.0, metavar='SECONDS', help='for loading the model')
    parser.add_argument('--backend-args', default='', metavar='"..."', help="more arguments of the backend's own")
    parser.add_argument('--verbose', action='store_true', help='show what the backend prints')


def run(args: argparse.Namespace) -> int:
    """Serve until stopped; 0 after SIGTERM, 130 after Ctrl-C."""
    from mmft.serve.server import ServeSettings, serve

    own = ('backend', 'host', 'port', 'tp', 'session_len', 'max_batch_size', 'replicas', 'model_name', 'image_root',
           'device', 'dtype', 'trust_remote_code', 'cache', 'queue', 'start_timeout', 'base')  # fmt: skip
    keys = [*args.api_key, *([os.environ['MMFT_API_KEY']] if 'MMFT_API_KEY' in os.environ else [])]
    return serve(
        ServeSettings(
            **{name: getattr(args, name) for name in own},
            **_target(args),
            api_keys=tuple(keys),
            picture_hosts=tuple(name.lower() for name in args.picture_host),
            allow_code=tuple(args.allow_code),
            backend_args=tuple(shlex.split(args.backend_args)),
            echo=args.verbose,
        )
    )


def _target(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that say what is served."""
    from mmft.errors import ConfigError
    from mmft.export.model_path import is_url

    words = [*args.model, *([args.checkpoint] if args.checkpoint else [])]
    if len(groups := grouped(words)) != 1:
        raise ConfigError(
            f'{count_of(len(groups), "model")}: {" ".join(words) or "none"}',
            expected='one: a directory, a checkpoint, the folder of a training, or CONFIG CKPT',
        )
    if is_url(words[0]):
        raise ConfigError(f'{words[0]} is a server already', fix=f'talk to it with mmft chat {words[0]}, or mmft webui')
    if len(words) == 1 and not args.config and not os.path.exists(words[0]):
        return {'directory': words[0]}  # an error, which comes together with those of the settings
    target = named_target(groups[0], args, args.config)
    if isinstance(target, tuple):
        return {'config': target[0], 'checkpoint': target[1]}
    if args.config is not None:
        raise ConfigError(f'--config {args.config} without a checkpoint', fix='name iter_N.pth of its run')
    return {'directory': target}
