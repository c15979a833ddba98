"""Check a LLaVA-1.5 or ShareGPT4V file against the pictures that are there, and write what ChatDataset can train on.

    mmft data llava_mix data/llava/llava_v1_5_mix665k.json data/llava
    mmft data llava_mix data/llava_pretrain/blip_laion_cc_sbu_558k.json data/llava_pretrain/images
    mmft data sharegpt4v data/sharegpt4v/share-captioner_coco_lcs_sam_1246k_1107.json data/sharegpt4v

The first names pictures of coco/train2017, gqa/images, ocr_vqa/images, textvqa/train_images, vg/VG_100K and
vg/VG_100K_2 in the picture folder; the second of 00000/ to 00659/; ShareGPT4V those of the first, and
llava/llava_pretrain/images, sam/images, share_textvqa/images, web-celebrity/images, web-landmark/images and
wikiart/images.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmft.cli.converters.common import add_common, convert_and_show, share


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    add_common(parser, seed='what is held out')
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


def run(args: argparse.Namespace) -> int:
    """Convert, and print the report."""

    def work() -> Mapping[str, Any]:
        from mmft.data.convert.mixes import LLAVA_FOLDERS, SHAREGPT4V_FOLDERS, convert

        folders = {'llava_mix': LLAVA_FOLDERS, 'sharegpt4v': SHAREGPT4V_FOLDERS}
        return convert(
            args.annotations,
            args.images,
            args.out,
            folders[args.converter],
            args.missing,
            args.text_only,
            args.val,
            args.seed,
            args.on_error,
        )

    return convert_and_show(work)
