"""Turn CODA-LM into chat annotations, train.jsonl and val.jsonl, that ChatDataset reads.

In one folder: val/images and test/images of CODA2022, and CODA-LM/ with Train/ and Val/ (Test/, Mini/).

    python tools/data/codalm.py data/coda --draw                        all three tasks
    python tools/data/codalm.py data/coda --task regional --split Train
    python tools/data/codalm.py data/coda --annotations CODA-LM-chinese --language zh
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmft.data.convert.command import make_parser, run

SPLITS, TASKS = ('Train', 'Val', 'Test', 'Mini'), ('general', 'regional', 'suggestion')


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 done, 1 bad input, 2 bad arguments (argparse)."""
    parser = make_parser(__doc__)
    parser.add_argument('root', type=Path, help='the folder with val/, test/ and CODA-LM/')
    parser.add_argument('out', type=Path, nargs='?', help='where to write (default: into the annotation folder)')
    parser.add_argument('--split', nargs='+', choices=SPLITS, default=('Train', 'Val'), help='default: Train Val')
    parser.add_argument('--task', nargs='+', choices=TASKS, default=TASKS, help='default: all')
    parser.add_argument('--annotations', default='CODA-LM', help='the annotation folder (default: CODA-LM)')
    parser.add_argument(
        '--language', choices=('en', 'zh'), default='en', help="of the questions; en are the benchmark's (default)"
    )
    parser.add_argument('--draw', action='store_true', help='draw the boxes of regions where there is no such picture')
    args = parser.parse_args(argv)

    def work() -> Mapping[str, Any]:
        from mmft.data.convert.codalm import convert

        return convert(
            args.root, args.out, args.split, args.task, args.annotations, args.language, args.draw, args.on_error
        )

    return run(work)


if __name__ == '__main__':
    sys.exit(main())
