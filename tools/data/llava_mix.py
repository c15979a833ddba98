"""Check a LLaVA-1.5 mix against the pictures that are there, and write what ChatDataset can train on.

    python tools/data/llava_mix.py data/llava/llava_v1_5_mix665k.json data/llava
    python tools/data/llava_mix.py data/llava_pretrain/blip_laion_cc_sbu_558k.json data/llava_pretrain/images

The first names pictures of coco/train2017, gqa/images, ocr_vqa/images, textvqa/train_images, vg/VG_100K and
vg/VG_100K_2 in the picture folder; the second of 00000/ to 00659/.
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
        from mmft.data.convert.mixes import LLAVA_FOLDERS, convert

        return convert(
            args.annotations,
            args.images,
            args.out,
            LLAVA_FOLDERS,
            args.missing,
            args.text_only,
            args.val,
            args.seed,
            args.on_error,
        )

    return run(work)


if __name__ == '__main__':
    sys.exit(main())
