"""CODA-LM as chat records; ``mmft data codalm`` is its command line.

CODA-LM (Chen et al., WACV 2025, arXiv:2404.10595; github.com/DLUT-LYZ/CODA-LM) annotates driving scenes of CODA2022::

    ROOT/val/images/0001.jpg                 pictures of Train
    ROOT/test/images/0001.jpg                pictures of Val, Test and Mini
    ROOT/CODA-LM/Train/val_0001.json         one file a picture, named after it
    ROOT/val/images_w_boxes/0001_object_1.jpg    the picture with region 1 in a red box (its README: images_w_bboxes)

A file has ``general_perception`` (objects by seven kinds, and ``description and explanation`` of all),
``region_perception`` (number -> ``description and explanation``, ``box`` x y w h in pixels, ``category_name``) and
``driving_suggestion``. The wording of the English questions is the benchmark's: another one would be another test.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import ImageDraw

from mmft.data.convert.output import Output, chat_record, progress, require
from mmft.data.pictures.tilers import image_size, load_image
from mmft.data.records.annotations import read_json
from mmft.errors import ConfigError, DataError

__all__ = ['BOX_FOLDERS', 'QUESTIONS', 'SPLITS', 'TASKS', 'convert']

SPLITS = ('Train', 'Val', 'Test', 'Mini')
TASKS = ('general', 'regional', 'suggestion')
BOX_FOLDERS = ('images_w_boxes', 'images_w_bboxes')
"""Where the pictures with drawn boxes lie: what the release's script writes, and what its README says."""

QUESTIONS = {
    'en': {
        'general': 'There is an image of traffic captured from the perspective of the ego car. Please focus on objects '
        'that have a great influence on ego car driving behavior in the scene, describe these objects and the reasons '
        'why they influence ego car driving.',
        'regional': 'Please describe the object inside the red rectangle in the image and explain why it affect ego '
        'car driving.',
        'suggestion': 'There is an image of traffic captured from the perspective of the ego car. Please provide '
        'driving suggestions for the ego car based on the current scene.',
    },
    'zh': {
        'general': '这是一张从自车视角拍摄的交通图像。请描述场景中对自车驾驶影响较大的物体，并说明影响的原因。',
        'regional': '请描述图中红色矩形框内的物体，并说明它为什么会影响自车驾驶。',
        'suggestion': '这是一张从自车视角拍摄的交通图像。请根据当前场景为自车提供驾驶建议。',
    },
}
_BOTH = 'description and explanation'


def convert(
    root: Path,
    out: Path | None = None,
    splits: Sequence[str] = ('Train', 'Val'),
    tasks: Sequence[str] = TASKS,
    annotations: str = 'CODA-LM',
    language: str = 'en',
    draw: bool = False,
    on_error: str = 'raise',
) -> dict[str, Any]:
    """Write a ``.jsonl`` for each split (``train.jsonl``...) and ``report.json``.

    Args:
        root: the folder with ``val/``, ``test/`` and the annotation folder.
        out: where to write; default: into the annotation folder.
        splits: of ``SPLITS``. Mini is a part of Val.
        tasks: of ``TASKS``.
        annotations: the annotation folder in ``root``, or a path: ``CODA-LM``, ``CODA-LM-chinese``.
        language: of the questions; the answers are in that of the annotation folder.
        draw: draw the red boxes that are not there yet into ``images_w_boxes``, 2 px wide as the release's script.
        on_error: ``raise``, or ``skip`` to leave bad files and regions out and count them.

    Returns:
        What ``report.json`` holds.

    Raises:
        ConfigError: an unknown split, task or language.
        DataError: a folder or picture is missing, or a file is bad.
    """
    wrong = [s for s in splits if s not in SPLITS] + [t for t in tasks if t not in TASKS]
    if wrong or language not in QUESTIONS:
        raise ConfigError(f'{wrong or language!r}', expected=f'splits of {SPLITS}, tasks of {TASKS}, en or zh')
    root = Path(root)
    folder = root / annotations
    parts = [split.lower() for split in SPLITS]
    with Output(folder if out is None else out, root.resolve(), parts, on_error) as made:
        for split in splits:
            files = _files(root, folder, split)
            for file in progress(files, f'CODA-LM {split}', len(files)):
                with made.guard(file, reason=f'{split}: bad files'):
                    for task, record in _records(root, file, tasks, QUESTIONS[language], draw, made, split):
                        made.write(split.lower(), record, task)
        made.notes.update(language=language)
    return made.report


def _files(root: Path, folder: Path, split: str) -> list[Path]:
    own = folder / split
    if not own.is_dir():
        where = folder if folder.is_dir() else root
        there = sorted(p.name for p in where.iterdir())[:12] if where.is_dir() else 'no such folder'
        raise DataError(
            f'not there; {where} holds {there}',
            file=own,
            expected='CODA-LM/Train with val_*.json, CODA-LM/Val with test_*.json, beside val/images and test/images',
            fix='unpack the annotations beside the pictures of CODA2022, and name the folder that holds both',
        )
    files = sorted(path for path in own.iterdir() if path.suffix == '.json')
    if not files:
        raise DataError('no .json files in it', file=own, expected='one for each picture, such as val_0001.json')
    return files


def _records(
    root: Path,
    file: Path,
    tasks: Sequence[str],
    questions: Mapping[str, str],
    draw: bool,
    made: Output,
    split: str,
) -> Iterator[tuple[str, dict[str, Any]]]:
    source, sign, number = file.stem.partition('_')
    if not sign or source not in ('train', 'val', 'test'):
        raise DataError(f'the name {file.name!r}', expected='SOURCE_NUMBER.json, such as val_0001.json')
    raw = read_json(file)
    image = f'{source}/images/{number}.jpg'
    size = image_size(root / image)
    name = f'{split.lower()}/{file.stem}'
    for task in tasks:
        with made.guard(file, reason=f'{split}: bad {task}'):
            if task == 'general':
                answer = _general(require(raw, 'general_perception', kind=dict), made, split)
            elif task == 'suggestion':
                answer = require(raw, 'driving_suggestion')
            else:
                continue
            yield task, chat_record(f'{name}/{task}', [image], [(questions[task], answer)], task=task)
    if 'regional' in tasks:
        for key, region in require(raw, 'region_perception', kind=dict).items():
            with made.guard(file, record=f'region {key}', reason=f'{split}: bad regions'):
                box, answer = _box(region, size), _described(region)
                boxed = _boxed(root, source, number, key, box, image, draw, made)
                record = chat_record(f'{name}/regional/{key}', [boxed], [(questions['regional'], answer)])
                record.update(task='regional', category=require(region, 'category_name'), drawn_box=box)
                yield 'regional', record


def _described(part: Mapping[str, Any]) -> str:
    """The text of a region or object: one, or description and explanation apart."""
    if isinstance(part, Mapping) and 'description' in part and _BOTH not in part:
        return f'{require(part, "description")} {require(part, "explanation")}'
    return require(part, _BOTH)


def _general(part: Mapping[str, Any], made: Output, split: str) -> str:
    if _BOTH in part:
        return require(part, _BOTH)
    texts = [_described(item) for items in part.values() if isinstance(items, list) for item in items]
    if not texts:
        raise DataError(
            f'`general_perception` has no `{_BOTH}` and no objects', expected='an answer', fix='take the file out'
        )
    made.changed[f'{split}: general answers put together from the objects'] += 1
    return ' '.join(texts)


def _box(region: Any, size: tuple[int, int]) -> list[float]:
    box = require(region, 'box', kind=list)
    numbers = len(box) == 4 and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in box)
    if not numbers or box[2] <= 0 or box[3] <= 0 or box[0] >= size[0] or box[1] >= size[1]:
        raise DataError(f'`box` is {box}', expected=f'x, y, width, height inside {size[0]} x {size[1]} px')
    return box


def _boxed(
    root: Path, source: str, number: str, key: str, box: Sequence[float], image: str, draw: bool, made: Output
) -> str:
    """The picture with this region in a red box: the one there is, or drawn now."""
    paths = [f'{source}/{folder}/{number}_object_{key}.jpg' for folder in BOX_FOLDERS]
    for path in paths:
        if (root / path).is_file():
            image_size(root / path)
            return path
    if not draw:
        raise DataError(
            f'no picture {paths[0]}, nor in {BOX_FOLDERS[1]}/',
            expected='the picture with its region in a red box',
            fix='--draw makes it, as the script of the release does',
        )
    picture, target = load_image(root / image), root / paths[0]
    x, y, width, height = box
    ImageDraw.Draw(picture).rectangle((x, y, x + width, y + height), outline='red', width=2)
    target.parent.mkdir(exist_ok=True)
    temporary = target.with_name(f'.{target.name}.tmp')
    picture.save(temporary, format='JPEG', quality=95)
    os.replace(temporary, target)
    made.changed['pictures drawn with a red box'] += 1
    return paths[0]
