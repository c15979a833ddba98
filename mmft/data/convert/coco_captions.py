"""COCO captions as chat records; ``mmft data coco_captions`` is its command line.

Two layouts, known by their keys: COCO's own ``captions_train2017.json`` (``images``: id and file_name; ``annotations``:
image_id and caption, about five to a picture), and Karpathy's ``dataset_coco.json`` (``images``: filepath, filename,
split and sentences), which divides the 2014 pictures as papers report them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmft.data.convert.output import Output, chat_record, progress, require
from mmft.data.convert.pictures import Pictures
from mmft.data.records.annotations import read_json
from mmft.errors import ConfigError, DataError

__all__ = ['CHOICES', 'PROMPTS', 'convert']

CHOICES = ('all', 'first', 'longest', 'random')

PROMPTS = {
    'en': (
        'Describe this picture in one sentence.',
        'What does the picture show? Answer with one sentence.',
        'Write a short caption for this picture.',
    ),
    'zh': ('用一句话描述这张图片。', '图中有什么？请用一句话回答。', '给这张图片写一句简短的说明。'),
}
"""Wordings; one is chosen for each record, by the seed. The template ``plain`` leaves them out."""


@dataclass(frozen=True, slots=True)
class _Picture:
    key: int
    image: str
    captions: tuple[str, ...]


def convert(
    files: Mapping[str, Path],
    images: Path,
    out: Path,
    captions: str = 'all',
    prompts: Sequence[str] = PROMPTS['en'],
    seed: int = 0,
    on_error: str = 'raise',
) -> dict[str, Any]:
    """Write one ``.jsonl`` a part and ``report.json``.

    Args:
        files: part (``train``, ``val``, ``test``) -> caption file; of Karpathy's file, which holds all three, the
            records of that part are taken (``restval`` counts as ``train``, as papers do).
        images: the folder with ``train2017/`` and so on, or with the pictures themselves.
        out: where to write.
        captions: which of a picture's captions train: ``all``, a record each; ``first``, ``longest``, or one at
            ``random``. Other parts get one record a picture with the first caption, and the rest in ``captions``.
        prompts: questions to choose from.
        seed: of the choice of wordings and of ``random``.
        on_error: ``raise``, or ``skip`` to leave bad pictures out and count them.

    Returns:
        What ``report.json`` holds.

    Raises:
        ConfigError: an unknown choice, or no prompts.
        DataError: a file or picture is missing, or a record is bad.
    """
    if captions not in CHOICES or not prompts or not all(prompt.strip() for prompt in prompts):
        raise ConfigError(f'captions={captions!r}, prompts={list(prompts)}', expected=f'{CHOICES}, at least one prompt')
    pictures = Pictures(Path(images))
    with Output(out, pictures.root, ('train', 'val', 'test'), on_error) as made:
        for part, file in files.items():
            for picture in _read(Path(file), part, pictures, made):
                chosen = _choose(picture, captions if part == 'train' else 'first', seed)
                rest = {} if part == 'train' else {'captions': list(picture.captions)}
                for n, caption in enumerate(chosen):
                    name = f'coco/{picture.key}' + (f'#{n + 1}' if len(chosen) > 1 else '')
                    prompt = random.Random(f'{seed} {name}').choice(prompts)
                    made.write(part, chat_record(name, [picture.image], [(prompt, caption)], **rest))
        made.notes.update(captions=captions, seed=seed, follow_links=pictures.follow_links)
    return made.report


def _choose(picture: _Picture, which: str, seed: int) -> list[str]:
    if which == 'all':
        return list(dict.fromkeys(picture.captions))
    if which == 'longest':
        return [max(picture.captions, key=len)]
    if which == 'random':
        return [random.Random(f'{seed} {picture.key}').choice(picture.captions)]
    return [picture.captions[0]]


def _read(file: Path, part: str, pictures: Pictures, made: Output) -> Iterator[_Picture]:
    content = read_json(file)
    listed = content.get('images') if isinstance(content, Mapping) else None
    if not isinstance(listed, list) or not listed:
        keys = sorted(content) if isinstance(content, Mapping) else f'a {type(content).__name__}'
        raise DataError(
            f'holds {keys}',
            file=file,
            expected="`images` and `annotations` (COCO's captions_*.json), or `images` with sentences (Karpathy's)",
            fix='instances_*.json and person_keypoints_*.json hold no captions: name captions_*.json',
        )
    if isinstance(listed[0], Mapping) and 'sentences' in listed[0]:
        yield from _karpathy(file, listed, part, pictures, made)
    else:
        yield from _official(file, listed, content.get('annotations'), part, pictures, made)


def _official(
    file: Path, listed: list[Any], annotations: Any, part: str, pictures: Pictures, made: Output
) -> Iterator[_Picture]:
    names, captions = {}, {}
    for n, raw in enumerate(listed):
        with made.guard(file, record=f'image {n}', reason=f'{part}: bad records'):
            names[require(raw, 'id', kind=int)] = require(raw, 'file_name')
    if not isinstance(annotations, list):
        raise DataError('no list `annotations` in it', file=file, expected='the captions', fix='is it captions_*.json?')
    for n, raw in enumerate(annotations):
        with made.guard(file, record=f'annotation {n}', reason=f'{part}: bad records'):
            key, caption = require(raw, 'image_id', kind=int), require(raw, 'caption')
            if key not in names:
                raise DataError(f'is about image {key}, which is not among `images`', fix='fetch the file again')
            captions.setdefault(key, []).append(' '.join(caption.split()))
    for key in names.keys() - captions.keys():
        made.leave_out(f'{part}: pictures without a caption', DataError(f'image {key} has no caption', file=file))
    folder = file.stem.removeprefix('captions_')  # train2017
    for key, own in progress(captions.items(), f'coco {part}', len(captions)):
        with made.guard(file, record=f'image {key}', reason=f'{part}: bad records'):
            yield _Picture(key, pictures.first([f'{folder}/{names[key]}', names[key]]), tuple(own))


def _karpathy(file: Path, listed: list[Any], part: str, pictures: Pictures, made: Output) -> Iterator[_Picture]:
    taken = {'train': ('train', 'restval')}.get(part, (part,))
    for n, raw in progress(enumerate(listed), f'coco {part}', len(listed)):
        with made.guard(file, record=f'image {n}', reason=f'{part}: bad records'):
            split = require(raw, 'split')
            if split not in ('train', 'restval', 'val', 'test'):
                raise DataError(f'is of the split {split!r}', expected='train, restval, val or test')
            if split not in taken:
                continue
            name, folder = require(raw, 'filename'), str(raw.get('filepath') or '')
            image = pictures.first([f'{folder}/{name}', name])
            own = [' '.join(require(s, 'raw').split()) for s in require(raw, 'sentences', kind=list)]
            if not own:
                raise DataError('has no caption', fix='take it out')
            yield _Picture(require(raw, 'cocoid', kind=int), image, tuple(own))
