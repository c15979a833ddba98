"""A folder of pictures for each class (OK and NG, a dish each...) as chat records, for ``mmft data folder``.

Layouts: ``SOURCE/OK/*.jpg, SOURCE/NG/*.jpg``, divided here into train and held out; or ``SOURCE/train/OK/...`` and
``SOURCE/val/OK/...``, already divided. Folders inside a class belong to it.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmft.data.convert.output import Output, chat_record, progress
from mmft.data.convert.pictures import PICTURE_ENDINGS
from mmft.data.pictures.tilers import image_size
from mmft.data.records.annotations import read_json
from mmft.data.records.splits import split_apart
from mmft.errors import ConfigError, DataError
from mmft.words import clipped, did_you_mean

__all__ = ['WORDINGS', 'Wording', 'convert', 'read_wording']

_PARTS = ('train', 'val', 'test')


@dataclass(frozen=True)
class Wording:
    """How a class is asked for and named. ``{name}`` is the class's name, ``{names}`` all of them.

    Attributes:
        questions: one is chosen for each picture, by the seed.
        answers: the same for each class, or of each class its own.
        separator: between the names in ``{names}``.
    """

    questions: tuple[str, ...]
    answers: tuple[str, ...] | Mapping[str, tuple[str, ...]] = ('{name}',)
    separator: str = ', '


WORDINGS = {
    'en': Wording(
        (
            'Which of these does the picture show: {names}? Reply with the name only.',
            'Classify this picture as one of: {names}. Reply with the name only.',
            'Look closely. Is it {names}? Reply with the name only.',
        ),
        separator=' or ',
    ),
    'zh': Wording(
        (
            '图中属于下列哪一类：{names}？请只回答类别名称。',
            '请将这张图片归入其中一类：{names}。只回答类别名称。',
            '请仔细查看图片，判断是{names}中的哪一类，只回答类别名称。',
        ),
        separator='、',
    ),
    'en-inspection': Wording(
        (
            'Inspect the product in the picture. Is it {names}? Reply with the verdict only.',
            'You check finished goods. Verdict for this picture, {names}? Reply with the verdict only.',
        ),
        separator=' or ',
    ),
    'zh-inspection': Wording(
        (
            '请检查图中的产品，判定结果是{names}？只回答判定结果。',
            '你是质检员。请给出这张图片的判定（{names}），只回答判定结果。',
        ),
        separator='还是',
    ),
}


@dataclass(frozen=True, slots=True)
class _Picture:
    path: str
    kind: str
    digest: str
    group: str


def convert(
    source: Path,
    out: Path | None = None,
    classes: Sequence[str] = (),
    names: Mapping[str, str] | None = None,
    wordings: Sequence[Wording] = (WORDINGS['en'],),
    val: float = 0.1,
    group: str | None = None,
    seed: int = 0,
    on_error: str = 'raise',
) -> dict[str, Any]:
    """Write ``train.jsonl``, ``val.jsonl`` and ``report.json``.

    Args:
        source: the folder of the class folders.
        out: where to write; default: into ``source``.
        classes: the folders there must be, and no others; none: whatever there is.
        names: folder -> what the class is called in questions and answers; by default the folder's name.
        wordings: one record a picture and wording (two languages make two records).
        val: share of each class's pictures that is held out, at least one; ignored where the source is divided.
        group: a regular expression; pictures whose paths agree in its first group (the number of a box, a shift) are
            never divided between train and val. Identical files never are.
        seed: of the split and the wordings.
        on_error: ``raise``, or ``skip`` to leave bad pictures out and count them.

    Returns:
        What ``report.json`` holds.

    Raises:
        ConfigError: a class or name that there is no folder for, or a wording that does not fit.
        DataError: no class folders, a folder too many, a broken picture, one picture in two classes.
    """
    source, names = Path(source), dict(names or {})
    if not 0 <= val <= 1:
        raise ConfigError(f'val={val}', expected='a share from 0 to 1')
    divided = _class_folders(source, names, classes)
    labels = {kind: names.get(kind, kind) for kind in dict.fromkeys(k for part in divided.values() for k in part)}
    for wording in wordings:
        _check_wording(wording, labels)
    pattern = _pattern(group)
    with Output(source if out is None else out, source.resolve(), _PARTS, on_error) as made:
        found = {part: _pictures(source, folders, pattern, made) for part, folders in divided.items()}
        _once_each(found, source, made)
        parts = found if '' not in found else _split(found[''], val, seed, group is not None, made)
        for part, pictures in parts.items():
            for picture in pictures:
                for n, wording in enumerate(wordings):
                    name = f'{picture.path}' + (f'#{n + 1}' if len(wordings) > 1 else '')
                    turn = _turn(picture, wording, labels, f'{seed} {name}')
                    record = chat_record(name, [picture.path], [turn], **{'class': picture.kind})
                    made.write(part, record, picture.kind)
        made.notes.update(classes=labels, seed=seed, val=val, group=group)
    return made.report


def read_wording(file: Path) -> Wording:
    """Wordings of one's own: ``{"questions": [...], "answers": [...] or {"OK": [...]}, "separator": "/"}``.

    Raises:
        DataError: the file is no such object.
    """
    content = read_json(file)
    fits = isinstance(content, Mapping) and content.keys() <= {'questions', 'answers', 'separator'}
    questions, answers = (content.get('questions'), content.get('answers', ['{name}'])) if fits else (None, None)
    own = list(answers.values()) if isinstance(answers, Mapping) else [answers]
    if not all(isinstance(t, list) and t and all(isinstance(s, str) and s for s in t) for t in (questions, *own)):
        raise DataError(
            f'holds {json.dumps(content, ensure_ascii=False)[:120]}',
            file=file,
            expected='{"questions": ["Is it {names}?"], "answers": ["{name}"] or {"OK": ["..."], "NG": ["..."]}}',
        )
    texts = {k: tuple(v) for k, v in answers.items()} if isinstance(answers, Mapping) else tuple(answers)
    return Wording(tuple(questions), texts, content.get('separator', ', '))


def _class_folders(source: Path, names: Mapping[str, str], classes: Sequence[str]) -> dict[str, dict[str, Path]]:
    """Part -> class -> folder; the part is '' where the source is not divided."""
    if not source.is_dir():
        raise DataError('a file' if source.exists() else 'no such folder', file=source, expected='a folder per class')
    top = _folders(source)
    divided = {part: _folders(folder) for part, folder in top.items()} if set(top) <= set(_PARTS) else {'': top}
    kinds = dict.fromkeys(kind for folders in divided.values() for kind in folders)
    if not kinds:
        raise DataError(
            f'no folders in it but {sorted(p.name for p in source.iterdir())[:8]}',
            file=source,
            expected='a folder per class, such as OK/ and NG/',
            fix='sort the pictures into one folder per class',
        )
    if len(kinds) < 2:
        raise DataError(f'one class only: {list(kinds)}', file=source, expected='at least two class folders')
    if classes and (unknown := [kind for kind in kinds if kind not in classes]):
        raise DataError(
            f'unknown class folders {unknown}',
            file=source,
            expected=f'{list(classes)}',
            fix='move them away, or name them with --classes too',
        )
    if missing := [kind for kind in dict.fromkeys((*classes, *names)) if kind not in kinds]:
        raise ConfigError(
            f'no folder for the class {missing} in {source}{did_you_mean(missing[0], kinds)}',
            expected=f'the folders that are there, for --classes and --names: {clipped(", ".join(kinds))}',
            fix='correct the name of the folder',
        )
    return divided


def _folders(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith('.')}


def _pattern(group: str | None) -> re.Pattern[str] | None:
    try:
        pattern = re.compile(group) if group is not None else None
    except re.error as error:
        raise ConfigError(f'group {group!r}: {error}', expected='a regular expression') from None
    if pattern is not None and not pattern.groups:
        raise ConfigError(f'group {group!r} has no (...)', expected=r'such as "box(\d+)_"')
    return pattern


def _pictures(
    source: Path, folders: Mapping[str, Path], pattern: re.Pattern[str] | None, made: Output
) -> list[_Picture]:
    found: list[_Picture] = []
    for kind, folder in folders.items():
        files = sorted(path for path in folder.rglob('*') if path.is_file())
        before = len(found)
        for path in progress(files, kind, len(files)):
            shown = path.relative_to(source).as_posix()
            if any(part.startswith('.') for part in path.relative_to(folder).parts):
                made.leave_out('hidden files')
            elif path.suffix.lower() not in PICTURE_ENDINGS:
                made.leave_out(f'no pictures by their ending: *{path.suffix}')
            else:
                with made.guard(path):
                    image_size(path)
                    digest = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
                    found.append(_Picture(shown, kind, digest, _group(pattern, shown)))
        if len(found) == before:
            raise DataError('no pictures in it', file=folder, expected=f'files ending in {PICTURE_ENDINGS}')
    return found


def _group(pattern: re.Pattern[str] | None, path: str) -> str:
    if pattern is None:
        return ''
    match = pattern.search(path)
    if match is None:
        raise DataError(f'the group {pattern.pattern!r} does not occur in {path!r}', fix='change the expression')
    return f'group {match[1]}'


def _once_each(found: Mapping[str, list[_Picture]], source: Path, made: Output) -> None:
    """Refuse one picture in two classes or parts; count copies within one."""
    first: dict[str, tuple[str, _Picture]] = {}
    for part, picture in ((part, picture) for part, own in found.items() for picture in own):
        where, other = first.setdefault(picture.digest, (part, picture))
        if other.kind != picture.kind or where != part:
            raise DataError(
                f'{other.path} and {picture.path} are the same picture',
                file=source,
                expected='each picture in one class, and in train or val',
                fix='decide where it belongs, and delete the other copy',
            )
        if other is not picture:
            made.changed['copies of another picture of their class: kept, on its side of the split'] += 1


def _split(pictures: list[_Picture], val: float, seed: int, grouped: bool, made: Output) -> dict[str, list[_Picture]]:
    """Class by class, so that each has its share; all together where groups may run across classes."""
    kinds = Counter(p.kind for p in pictures)
    train: list[_Picture] = []
    held: list[_Picture] = []
    for kind in [None] if grouped else kinds:
        own = [p for p in pictures if kind in (None, p.kind)]
        links = [[p.digest, p.group] if p.group else [p.digest] for p in own]
        if 0 < val < 1 and len({p.digest for p in own}) == 1:
            made.changed[f'{kind}: one picture only, which trains'] += 1
            train += own
            continue
        first, second = split_apart(links, val, seed)
        train += [own[n] for n in first]
        held += [own[n] for n in second]
    return {'train': train, 'val': held}


def _check_wording(wording: Wording, labels: Mapping[str, str]) -> None:
    if telling := [text for text in wording.questions if '{name}' in text]:
        raise ConfigError(
            f'the questions {telling} give the answer away', expected='{names}, all of them, in questions'
        )
    texts = [*wording.questions]
    if isinstance(wording.answers, Mapping):
        if wording.answers.keys() != labels.keys():
            raise ConfigError(f'answers for the classes {list(wording.answers)}', expected=f'for {list(labels)}')
        texts += [text for own in wording.answers.values() for text in own]
    else:
        texts += wording.answers
        if not all('{name}' in text for text in wording.answers):
            raise ConfigError(
                f'answers {list(wording.answers)} are the same for all classes', expected='{name} in each of them'
            )
    for text in texts:
        if unknown := set(re.findall(r'\{(\w*)\}', text)) - {'name', 'names'}:
            raise ConfigError(f'{text!r} names {sorted(unknown)}', expected='{name} and {names}')


def _turn(picture: _Picture, wording: Wording, labels: Mapping[str, str], seed: str) -> tuple[str, str]:
    draw = random.Random(seed)
    answers = wording.answers[picture.kind] if isinstance(wording.answers, Mapping) else wording.answers
    names = wording.separator.join(labels.values())

    def fill(text: str) -> str:
        return text.replace('{names}', names).replace('{name}', labels[picture.kind])

    return fill(draw.choice(wording.questions)), fill(draw.choice(answers))
