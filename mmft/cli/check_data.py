"""``mmft check-data CONFIG``: check a whole data set before it wastes a run, with the config's own encoder."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmft.cli.options import add_cfg_options

if TYPE_CHECKING:
    from mmengine.config import Config

    from mmft.data.check import Source

__all__ = ['add_arguments', 'run']


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``check-data``."""
    parser.add_argument('config', nargs='?', help='a config file or bare name; without one, lengths are not counted')
    parser.add_argument('--ann-file', nargs='+', metavar='FILE', help="check these instead of the config's data")
    parser.add_argument('--image-root', metavar='FOLDER', help='where the pictures of --ann-file lie')
    parser.add_argument(
        '--part', choices=('train', 'val', 'both'), default='both', help='of the config (default: both)'
    )
    parser.add_argument(
        '--headers',
        action='store_true',
        help='picture headers and token counts only: several times as fast, but damage inside pictures is not found',
    )
    parser.add_argument('--allow', nargs='+', default=[], metavar='KIND', help='kinds that do not fail the check')
    parser.add_argument('--json', metavar='FILE', help="the whole report, every place named; '-': standard output")
    parser.add_argument('--page', metavar='FILE', help='an HTML page: histograms, samples with tiles and label mask')
    parser.add_argument('--samples', type=int, default=12, metavar='N', help='on the page (default: 12)')
    parser.add_argument('--places', type=int, default=5, metavar='N', help='shown of each problem (default: 5)')
    parser.add_argument('--workers', type=int, metavar='N', help='processes (default: one for each core, at most 16)')
    add_cfg_options(parser, 'such as pretrained=PATH')


def run(args: argparse.Namespace) -> int:
    """Check, and report. The status is 1 where there is a problem that is not allowed."""
    from mmft.data.check import KINDS, survey
    from mmft.data.check.page import page
    from mmft.data.check.report import text, to_json
    from mmft.data.records.splits import write_text
    from mmft.errors import ConfigError

    if unknown := [kind for kind in args.allow if kind not in KINDS]:
        raise ConfigError(f'--allow {" ".join(unknown)}', expected=f'of {", ".join(KINDS)}')
    if args.config is None and not args.ann_file:
        raise ConfigError('nothing to check', expected='a config, or --ann-file FILE --image-root FOLDER')
    cfg = _config(args)
    encoder = None if cfg is None else _encoder(cfg)
    found = survey(list(_sources(args, cfg)), encoder, decode=not args.headers, workers=args.workers)
    report = text(found, args.allow, args.places)
    # With --json - standard output is for programs.
    print(report, end='', file=sys.stderr if args.json == '-' else sys.stdout)
    if args.json:
        content = json.dumps(to_json(found, args.allow), ensure_ascii=False, indent=1) + '\n'
        content = content.encode('utf-8', 'backslashreplace').decode()  # a file's name may hold what is no character
        sys.stdout.write(content) if args.json == '-' else _write(write_text, args.json, content)
    if args.page:
        title = args.config or ' '.join(args.ann_file)
        _write(write_text, args.page, page(found, title, args.allow, args.samples))
    return 1 if found.problems(args.allow) else 0


def _config(args: argparse.Namespace) -> Config | None:
    from mmft.cli.configs import load_config

    return None if args.config is None else load_config(args.config, args.cfg_options)


def _encoder(cfg: Config) -> Any:
    """As in training; the model is built on the meta device, for its shapes only."""
    from mmft.checkpoint.build import build_meta
    from mmft.engine.build import build_encoder
    from mmft.engine.plain import plain_dict
    from mmft.errors import CheckpointError

    try:
        return build_encoder(cfg, build_meta(plain_dict(cfg.model)))
    except CheckpointError as error:
        raise CheckpointError(
            error.what,
            expected=error.expected,
            fix=f'{error.fix or "fetch it"}; to check without a tokenizer: --ann-file FILE --image-root FOLDER alone',
        ) from error


def _sources(args: argparse.Namespace, cfg: Config | None) -> Iterator[Source]:
    from mmft.data.check import source_of
    from mmft.engine.build import plain_dict

    if args.ann_file:
        for number, file in enumerate(args.ann_file):
            part = 'train' if len(args.ann_file) == 1 else ('train', 'val')[min(number, 1)]
            yield source_of({'ann_file': file, 'image_root': args.image_root}, part)
        return
    for part in ('train', 'val'):
        loader = cfg.get(f'{part}_dataloader')
        if args.part in (part, 'both') and loader and (part == 'train' or _named(loader.dataset)):
            yield source_of(plain_dict(loader.dataset), part)


def _named(dataset: Any) -> bool:
    return any(dataset.get(key) is not None for key in ('ann_file', 'meta_file'))


def _write(write_text: Any, path: str, content: str) -> None:
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, content)
    print(f'wrote {target}', file=sys.stderr)
