"""The published mixes of LLaVA-1.5 and ShareGPT4V: checked against the picture folders that are there.

Their records are read by ``ChatDataset`` as they are; what goes wrong is the pictures, which come from ten places. Here
every path is looked up, by folder, before anything is written.

    LLaVA-1.5   blip_laion_cc_sbu_558k.json (alignment), llava_v1_5_mix665k.json (instructions)
    ShareGPT4V  share-captioner_coco_lcs_sam_1246k_1107.json (alignment), sharegpt4v_instruct_gpt4-vision_cap100k.json,
                sharegpt4v_mix665k_cap23k_coco-ap9k_lcs3k_sam9k_div2k.json (instructions)
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmft.data.convert.output import Output, progress
from mmft.data.convert.pictures import Pictures
from mmft.data.records.annotations import AnnotationFile
from mmft.data.records.formats import parse_record
from mmft.errors import ConfigError, DataError
from mmft.words import count_of

__all__ = ['LLAVA_FOLDERS', 'SHAREGPT4V_FOLDERS', 'convert', 'folder_of']

LLAVA_FOLDERS = {
    'coco/train2017': 'train2017.zip of COCO (cocodataset.org)',
    'gqa/images': 'images.zip of GQA (Stanford)',
    'ocr_vqa/images': 'OCR-VQA, by the download script that its authors share; some pictures are GIF or PNG',
    'textvqa/train_images': 'train_val_images.zip of TextVQA (textvqa.org)',
    'vg/VG_100K': 'images.zip, part 1, of Visual Genome',
    'vg/VG_100K_2': 'images2.zip, part 2, of Visual Genome',
    '': 'images.zip of LLaVA-Pretrain, unpacked: its folders 00000/ to 00659/ lie in the picture folder',
}
"""Picture folder -> where its pictures come from; '' is that of the 558k alignment pictures."""

SHAREGPT4V_FOLDERS = {
    **{name: text for name, text in LLAVA_FOLDERS.items() if name},
    'llava/llava_pretrain/images': 'images.zip of LLaVA-Pretrain',
    'sam/images': 'SA-1B: sa_000000.tar to sa_000050.tar; of the instruction mix sam_images_share-sft.zip is enough',
    'share_textvqa/images': 'share_textvqa of the ShareGPT4V page',
    'web-celebrity/images': 'web-celebrity of the ShareGPT4V page',
    'web-landmark/images': 'web-landmark of the ShareGPT4V page',
    'wikiart/images': 'wikiart of the ShareGPT4V page',
}


@dataclass(slots=True)
class _Folder:
    records: int = 0
    missing: int = 0
    example: str = ''


def convert(
    ann_file: Path,
    images: Path,
    out: Path | None = None,
    folders: Mapping[str, str] = LLAVA_FOLDERS,
    missing: str = 'raise',
    text_only: str = 'keep',
    val: float = 0.0,
    seed: int = 0,
    on_error: str = 'raise',
) -> dict[str, Any]:
    """Write ``train.jsonl`` (and ``val.jsonl``) and ``report.json``.

    Changed, and counted: an answer before the first question and a question after the last answer are taken off, as
    LLaVA's own code does or its labels imply; a path that says ``.jpg`` where the picture is a ``.png`` or ``.gif`` is
    corrected.

    Args:
        ann_file: one of the published files, or one like them.
        images: the folder with ``coco/``, ``gqa/`` and so on, or the unpacked alignment pictures.
        out: where to write; default: beside ``ann_file``, in a folder of its name.
        folders: which picture folders the mix knows, and where they come from.
        missing: ``raise`` names every folder with missing pictures in one error; ``skip`` leaves their records out.
        text_only: ``keep`` or ``drop`` records without a picture (40k of ShareGPT in mix665k).
        val: share of the pictures whose records are held out (chosen by the path: a picture is on one side only).
        seed: of ``val``.
        on_error: ``raise``, or ``skip`` to leave records out that are bad in themselves.

    Returns:
        What ``report.json`` holds.

    Raises:
        ConfigError: unknown arguments.
        DataError: pictures are missing or a record is bad.
    """
    if missing not in ('raise', 'skip') or text_only not in ('keep', 'drop') or not 0 <= val < 1:
        raise ConfigError(
            f'missing={missing!r}, text_only={text_only!r}, val={val}', expected='raise or skip, keep or drop, 0 to 1'
        )
    pictures, file = Pictures(Path(images)), AnnotationFile(ann_file)
    out = Path(ann_file).with_suffix('') if out is None else out
    table: dict[str, _Folder] = {}
    with Output(out, pictures.root, ('train', 'val'), on_error) as made:
        for n in progress(range(len(file)), Path(ann_file).name, len(file)):
            with made.guard(file.path, file.line(n), record=f'record {n + 1}'):
                record = _corrected(file[n], made)
                parsed = parse_record(record)
                if not parsed.images and text_only == 'drop':
                    made.leave_out('text only')
                    continue
                found = [_look(path, pictures, folders, table) for path in parsed.images]
                if None in found:
                    gone = parsed.images[found.index(None)]
                    if missing == 'skip':
                        error = DataError(f'no picture {gone}', file=file.path, line=file.line(n))
                        made.leave_out(f'pictures missing in {folder_of(gone, folders) or "."}', error)
                    continue
                if found != parsed.images:
                    made.changed['pictures of another file type than their path says'] += 1
                    key = 'image' if 'image' in record else 'images'
                    record = {**record, key: found if isinstance(record[key], list) else found[0]}
                kind = (folder_of(found[0], folders) or 'pictures') if found else 'text only'
                made.write(_part(found, val, seed), record, kind)
        if missing == 'raise':
            _refuse(table, folders, pictures.root)
        rows = [(name or '.', count_of(own.records, 'record'), f'{own.missing} missing') for name, own in table.items()]
        made.notes.update(tables={'picture folders': rows}, follow_links=pictures.follow_links, val=val, seed=seed)
    return made.report


def folder_of(path: str, folders: Mapping[str, str]) -> str:
    """The picture folder of a path: a known one, else its first two parts, or '' for a folder of numbers alone.

    >>> folder_of('vg/VG_100K_2/7.jpg', LLAVA_FOLDERS), folder_of('00453/004539375.jpg', LLAVA_FOLDERS)
    ('vg/VG_100K_2', '')
    """
    known = [name for name in folders if name and path.startswith(f'{name}/')]
    if known:
        return max(known, key=len)
    parts = path.split('/')[:-1]
    return '' if all(re.fullmatch(r'\d+', part) for part in parts) else '/'.join(parts[:2])


def _corrected(raw: Mapping[str, Any], made: Output) -> dict[str, Any]:
    """Turns before the first question and after the last answer taken off."""
    turns = raw.get('conversations')
    if not isinstance(turns, list) or not all(isinstance(turn, Mapping) for turn in turns):
        return dict(raw)  # parse_record says what is wrong
    while turns and turns[0].get('from') == 'gpt':
        made.changed['answers before the first question taken off'] += 1
        turns = turns[1:]
    while len(turns) > 1 and turns[-1].get('from') == 'human' and '<image>' not in str(turns[-1].get('value')):
        made.changed['questions after the last answer taken off'] += 1
        turns = turns[:-1]
    return {**raw, 'conversations': turns}


def _look(path: str, pictures: Pictures, folders: Mapping[str, str], table: dict[str, _Folder]) -> str | None:
    row = table.setdefault(folder_of(path, folders), _Folder())
    row.records += 1
    found = pictures.find(path)
    if found is None:
        row.missing += 1
        row.example = row.example or path
    return found


def _refuse(table: Mapping[str, _Folder], folders: Mapping[str, str], root: Path) -> None:
    lacking = {name: row for name, row in table.items() if row.missing}
    if not lacking:
        return
    lines = []
    for name, row in sorted(lacking.items()):
        there = 'is not there' if not (root / name).is_dir() else f'lacks {row.missing} of {row.records}'
        origin = folders.get(name, 'a folder that this mix does not know')
        lines.append(f'\n    {name or "."} {there}, such as {row.example} (from: {origin})')
    total = sum(row.missing for row in lacking.values())
    raise DataError(
        f'{count_of(total, "picture")} missing:{"".join(lines)}',
        file=root,
        expected='all pictures that the records name',
        fix='fetch them, or --missing skip to leave their records out, counted',
    )


def _part(images: list[str], val: float, seed: int) -> str:
    if not val or not images:
        return 'train'
    draw = int.from_bytes(hashlib.blake2b(f'{seed} {images[0]}'.encode(), digest_size=8).digest(), 'big')
    return 'val' if draw < val * 2**64 else 'train'
