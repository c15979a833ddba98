"""Check a ShareGPT4V file against the pictures that are there, and write what ChatDataset can train on.

    python tools/data/sharegpt4v.py data/sharegpt4v/share-captioner_coco_lcs_sam_1246k_1107.json data/sharegpt4v
    python tools/data/sharegpt4v.py data/sharegpt4v/sharegpt4v_mix665k_cap23k_coco-ap9k_lcs3k_sam9k_div2k.json \\
        data/sharegpt4v --missing skip

Picture folders: those of LLaVA-1.5's mix, and llava/llava_pretrain/images, sam/images, share_textvqa/images,
web-celebrity/images, web-landmark/images and wikiart/images.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmft.data.convert.command import make_parser, run, share


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 done, 1 bad input, 2 bad arguments (argparse)."""
    parser = make_parser(__doc__, seed='what is held out')
    parser.add_argument('annotations', type=Path, help='the published JSON file')
    parser.add_argument('images', type=Path, help='the picture folder')
    parser.add_argument('out', type=Path, nargs='?', help='where to write (default: a folder beside the JSON file)')
    parser.add_argument(
        '--missing',
        choices=('raise', 'skip'),
        default='raise',
        help='one error that names every folder that lacks pictures, or leave their records out, counted',
    )
    parser.add_argument('--text-only', choices=('keep', 'drop'), default='keep', help='records without a picture')
    parser.add_argument('--val', type=share, default=0.0, help='share of the pictures that is held out (default: 0)')
    args = parser.parse_args(argv)

    def work() -> Mapping[str, Any]:
        from mmft.data.convert.mixes import SHAREGPT4V_FOLDERS, convert

        return convert(
            args.annotations,
            args.images,
            args.out,
            SHAREGPT4V_FOLDERS,
            args.missing,
            args.text_only,
            args.val,
            args.seed,
            args.on_error,
        )

    return run(work)


if __name__ == '__main__':
    sys.exit(main())
