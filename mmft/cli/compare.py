"""``mmft compare A B DATASET``: two models, before and after as a rule, asked the same; a page and a json file."""

from __future__ import annotations

import argparse
import functools
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmft.cli.chat import add_answering, add_models, models_of, settings_of
from mmft.cli.targets import MODEL
from mmft.words import count_of

if TYPE_CHECKING:
    from mmft.compare.results import Comparison

__all__ = ['INTERMIXED', 'add_arguments', 'dataset_of', 'run']

INTERMIXED = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``compare``."""
    what = f'{MODEL}, CONFIG CKPT, or the URL of a server with the OpenAI API'
    parser.add_argument('a', metavar='A', help=what)
    parser.add_argument('b', metavar='B', help='likewise')
    parser.add_argument('dataset', metavar='DATASET', help='an annotation file, or a config, whose val set is taken')
    parser.add_argument('more', nargs='*', help=argparse.SUPPRESS)  # where a model is two words, CONFIG CKPT
    parser.add_argument('--image-root', metavar='FOLDER', help='of an annotation file (default: its folder)')
    parser.add_argument(
        '--on-error',
        choices=('raise', 'skip'),
        help='stop at bad records, or leave them out, counted (default: as the config says, else raise)',
    )
    parser.add_argument(
        '--metric',
        default='exact_match',
        metavar='NAME',
        help='how answers are scored, by the name of a registered metric (default: exact_match)',
    )
    parser.add_argument('--limit', type=int, metavar='N', help='only so many questions, chosen with --seed')
    parser.add_argument(
        '--out', metavar='FILE.html', help='default: work_dirs/compare/A_B_DATASET.html; json beside it'
    )
    parser.add_argument('--force', action='store_true', help='replace what is there')
    parser.add_argument('--names', nargs=2, metavar=('A', 'B'), help='what the page calls them')
    add_answering(parser, max_new_tokens=128)
    parser.add_argument(
        '--workers', type=int, default=4, metavar='N', help='questions at a time for a server (default 4)'
    )
    parser.add_argument('--shown', type=int, default=400, metavar='N', help='answers on the page (default: 400)')
    add_models(parser, 2)


def run(args: argparse.Namespace) -> int:
    """Ask, and write. The status is 1 where answers failed, 130 where Ctrl-C came before the last."""
    from mmft.compare.questions import questions_in
    from mmft.compare.results import compare
    from mmft.errors import ConfigError
    from mmft.evaluation.metrics import build_metric
    from mmft.talk.open_answerer import check_target, open_answerer

    build_metric(args.metric)
    if args.workers < 1 or args.shown < 0:
        raise ConfigError(f'--workers {args.workers} --shown {args.shown}', expected='at least 1, and not below 0')
    *words, args.dataset = args.a, args.b, args.dataset, *args.more
    models = models_of(args, words, (2,))
    named = [target if isinstance(target, str) else str(target[1]) for target, _ in models]
    out = _out(args, named)
    seed = args.seed or 0
    records = _records(args, seed)
    first, second = (functools.partial(open_answerer, target, **options) for target, options in models)
    found = compare(
        (first, second),
        questions_in(records),
        args.metric,
        settings_of(args),
        check=functools.partial(check_target, models[1][0], **models[1][1]),
        names=args.names or _paths_where_names_are_equal(*named),
        dataset=args.dataset,
        workers=args.workers,
        seed=seed,
        left_out=sum(records.skipped.values()),
    )
    _write(found, out, args.shown)
    if isinstance(found.ended, KeyboardInterrupt):
        return 130
    return 1 if found.failed or found.ended is not None else 0


def _records(args: argparse.Namespace, seed: int) -> Any:
    """The dataset that is asked; of bad records the error names this command's option."""
    from mmft.compare.questions import open_records
    from mmft.data.records.dataset import SKIP_ADVICE
    from mmft.errors import DataError

    dataset = dataset_of(args.dataset, args.image_root, args.cfg_options)
    if args.on_error:
        dataset['on_error'] = args.on_error
    try:
        return open_records(dataset, args.limit, seed)
    except DataError as error:
        fix = error.fix.replace(SKIP_ADVICE, '--on-error skip to leave such records out, counted')
        raise DataError(error.bare, file=error.file, line=error.line, expected=error.expected, fix=fix) from error


def _out(args: argparse.Namespace, named: Sequence[str]) -> Path:
    from mmft.errors import ConfigError

    words = [text.rstrip('/').split('//')[-1].rsplit('/', 1)[-1] for text in named]
    words = [re.sub(r'[^\w.-]+', '-', word.removesuffix('.pth')) or 'x' for word in (*words, Path(args.dataset).stem)]
    out = Path(args.out or Path('work_dirs', 'compare', '_'.join(words) + '.html'))
    if out.suffix.lower() not in ('.html', '.htm'):
        raise ConfigError(f'--out {out}', expected='a name that ends with .html')
    there = [path for path in (out, out.with_suffix('.json')) if path.exists()]
    if there and not args.force:
        raise ConfigError(f'{there[0]} exists', fix='name another --out, or replace it with --force')
    return out


def dataset_of(named: str, image_root: str | None, cfg_options: Sequence[str] = ()) -> dict[str, Any]:
    """The arguments of ``ChatDataset`` for an annotation file, or for the val set of a config."""
    if named.endswith(('.json', '.jsonl')):
        return {'ann_file': named, 'image_root': image_root}
    from mmft.cli.configs import load_config
    from mmft.engine.plain import plain_dict
    from mmft.errors import ConfigError

    loader = load_config(named, cfg_options).get('val_dataloader')
    dataset = plain_dict(loader.dataset) if loader else {}
    if not any(dataset.get(name) for name in ('ann_file', 'meta_file')):
        raise ConfigError(f'{named} has no val set', fix='set val_dataloader.dataset, or name a file')
    return dataset


def _paths_where_names_are_equal(a: str, b: str) -> tuple[str, str] | None:
    if a.startswith('http') or b.startswith('http') or a == b or Path(a).resolve().name != Path(b).resolve().name:
        return None
    return a, b


def _write(found: Comparison, out: Path, shown: int) -> None:
    from mmft.compare.page import page, verdict
    from mmft.data.records.splits import write_text
    from mmft.words import printable

    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out.with_suffix('.json'), json.dumps(found.to_json(), ensure_ascii=False, indent=1) + '\n')
    write_text(out, page(found, shown))
    for name, (value, low, high) in zip(found.names, found.scores, strict=True):
        print(f'{printable(name)}: {found.metric} {value:.1%} ({low:.1%} to {high:.1%})')
    print(printable(verdict(found)))
    print(', '.join(f'{count} {kind}' for kind, count in found.counts().items()))
    if found.left_out:
        print(f'{count_of(found.left_out, "record")} of the dataset left out: mmft check-data says why')
    print(f'wrote {out} and {out.with_suffix(".json").name}')
    if found.failed or found.ended is not None:
        print(
            f'error: {count_of(found.failed, "answer")} failed; {len(found.rows)} of {found.asked} questions',
            file=sys.stderr,
        )
