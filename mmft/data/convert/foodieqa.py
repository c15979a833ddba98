"""The FoodieQA release as chat records; ``mmft data foodieqa`` is its command line.

FoodieQA (Li et al., EMNLP 2024, arXiv:2406.11030; huggingface.co/datasets/lyan62/FoodieQA) asks multiple-choice
questions about regional Chinese food. Its files: ``sivqa_tidy.json`` (single: one picture, a question, choices),
``mivqa_tidy.json`` (multi: four pictures, which of them is asked for), ``textqa_tidy.json`` (text: no picture), and
``images/``. Questions of single and multi are in Chinese and English, those of text in Chinese. From the single file
comes a fourth task, name: a picture, and the Chinese name of its dish.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmft.data.convert.output import Output
from mmft.data.pictures.tilers import image_size
from mmft.data.records.annotations import AnnotationFile
from mmft.data.records.balanced_split import split_balanced
from mmft.data.records.subset import inside
from mmft.errors import DataError
from mmft.words import count_of

__all__ = ['FILES', 'Item', 'convert', 'find_release', 'read_release']

FILES = {
    'single': 'sivqa_tidy.json',
    'multi': 'mivqa_tidy.json',
    'text': 'textqa_tidy.json',
    'name': 'sivqa_tidy.json',
}
"""Task -> file of the release."""

_LETTERS = 'ABCDEFGH'
_ASK_LETTER = {
    ('single', 'zh'): '请直接回答正确选项的字母。',
    ('multi', 'zh'): '请直接回答正确图片的字母。',
    ('text', 'zh'): '请直接回答正确选项的字母。',
    ('single', 'en'): 'Reply with the letter of the right choice.',
    ('multi', 'en'): 'Reply with the letter of the right picture.',
}
_ASK_NAME = ('图中的菜叫什么名字？', '这是什么菜？', '请说出图片中这道菜的名称。')


@dataclass(slots=True)
class Item:
    """One question in one language.

    Attributes:
        key: tells it from the others of its task and language.
        links: the pictures and dishes it is about.
        extra: what scorers may want to know.
    """

    task: str
    language: str
    key: str
    question: str
    answer: str
    images: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The record with LLaVA's keys."""
        images = {'image': self.images[0] if len(self.images) == 1 else self.images} if self.images else {}
        turns = [{'from': 'human', 'value': self.question}, {'from': 'gpt', 'value': self.answer}]
        name = f'{self.task}/{self.key}/{self.language}'
        return {
            'id': name,
            **images,
            'conversations': turns,
            'task': self.task,
            'language': self.language,
            **self.extra,
        }


def convert(
    source: Path,
    out: Path | None = None,
    tasks: Sequence[str] = tuple(FILES),
    languages: Sequence[str] = ('zh',),
    answer: str = 'letter',
    val: float = 0.1,
    seed: int = 0,
    on_error: str = 'raise',
) -> dict[str, Any]:
    """Read the release, split it by dishes and pictures, write ``train.jsonl``, ``val.jsonl`` and ``report.json``.

    No dish and no picture is in both parts. Questions about several pictures tie these to no part: where they come to
    lie on both sides, the question is left out and counted.

    Args:
        source: the folder of the release.
        out: where to write; default: into the release.
        tasks: keys of ``FILES``.
        languages: ``zh`` and ``en``; what a question lacks is left out and counted.
        answer: ``letter``, ``text`` of the right choice, or ``both``.
        val: share of each task that is held out, as closely as pictures and dishes allow; the report has a warning
            where a part gets less than half its share of a task.
        seed: of the split and of the wording of name questions.
        on_error: ``raise``, or ``skip`` to leave bad records out, counted and named.

    Returns:
        What ``report.json`` holds: the counts of each part, what was left out, the paths, warnings.

    Raises:
        DataError: the release is laid out differently, a record is bad, or nothing can be held out.
    """
    root = find_release(source, tasks)
    with Output(root if out is None else Path(out), root, on_error=on_error) as made:
        items = read_release(root, tasks, languages, made, answer, seed)
        if not items:
            raise DataError(
                f'no questions of {list(tasks)} in {list(languages)}',
                file=root,
                fix='only single and multi are in English',
            )
        kinds, loose = [item.task for item in items], [len(item.images) > 1 for item in items]
        train, held, across = split_balanced([item.links for item in items], kinds, loose, val, seed)
        for part, numbers in (('train', train), ('val', held)):
            for n in numbers:
                made.write(part, items[n].to_json(), f'{items[n].task}/{items[n].language}')
        for n in across:
            made.leave_out(f'{kinds[n]}: pictures on both sides of the split')
        made.notes.update(seed=seed, val=val, warnings=_warnings(kinds, {'train': train, 'val': held}, val))
    return made.report


def _warnings(kinds: Sequence[str], parts: Mapping[str, Sequence[int]], val: float) -> list[str]:
    """The tasks of which a part has less than half its share."""
    found = []
    for (part, numbers), share in zip(parts.items(), (1 - val, val), strict=True):
        there = Counter(kinds[n] for n in numbers)
        found += [
            f'{part} has {there[kind]} of {count_of(count, "question")} of {kind}, less than half of its share of '
            f'{share:g}: their '
            'pictures and dishes do not divide better; another --seed or --val may'
            for kind, count in Counter(kinds).items()
            if there[kind] < share * count / 2
        ]
    return found


def find_release(source: Path, tasks: Sequence[str] = tuple(FILES)) -> Path:
    """The folder with the files of the release: ``source``, or ``FoodieQA`` in it as the zip unpacks.

    Raises:
        DataError: it is not there; names what was looked for and what lies there instead.
    """
    wanted = sorted({FILES[task] for task in tasks})
    if not source.is_dir():
        what = 'a file' if source.exists() else 'no such folder'
        raise DataError(
            what, file=source, expected=f'a folder with {wanted}', fix='unpack FoodieQA.zip, name its folder'
        )
    for folder in (source, source / 'FoodieQA'):
        if all((folder / name).is_file() for name in wanted):
            return folder.resolve()
    missing = [name for name in wanted if not (source / name).is_file()]
    raise DataError(
        f'without {missing}; it holds {sorted(p.name for p in source.iterdir())[:12]}',
        file=source,
        expected=f'{wanted} beside images/',
        fix='unpack FoodieQA.zip, name the folder that holds the files, or leave a task out',
    )


def read_release(
    root: Path, tasks: Sequence[str], languages: Sequence[str], made: Output, answer: str = 'letter', seed: int = 0
) -> list[Item]:
    """All items of the tasks; what is left out is counted in ``made``.

    Raises:
        DataError: a bad record or picture, with file and line, unless ``made`` has ``on_error='skip'``.
    """
    readers: dict[str, Callable[[dict[str, Any]], Iterator[Item]]] = {
        'single': lambda raw: _read_choices('single', raw, languages, answer),
        'multi': lambda raw: _read_multi(raw, languages),
        'text': lambda raw: _read_choices('text', raw, languages, answer),
        'name': lambda raw: _read_name(raw, languages, seed),
    }
    items: dict[tuple[str, str, str], Item] = {}
    for task in dict.fromkeys(tasks):
        file = AnnotationFile(root / FILES[task])
        for n in range(len(file)):
            with made.guard(file.path, file.line(n), reason=f'{task}: bad records'):
                found = list(readers[task](file[n]))
                for image in dict.fromkeys(image for item in found for image in item.images):
                    image_size(inside(root, image))
                for language in dict.fromkeys(languages):
                    if language not in {item.language for item in found}:
                        made.leave_out(f'{task}: not in {language}')
                for item in found:
                    _add(items, item)
    return list(items.values())


def _add(items: dict[tuple[str, str, str], Item], item: Item) -> None:
    """Add an item; a picture is named once, and a second question of the same id gets a number."""
    key, n = item.key, 1
    while (item.task, item.key, item.language) in items:
        if item.task == 'name':
            return
        n += 1
        item.key = f'{key}#{n}'
    items[item.task, item.key, item.language] = item


def _read_choices(task: str, raw: dict[str, Any], languages: Sequence[str], answer: str) -> Iterator[Item]:
    """single and text: the right one of some texts."""
    dish = _text(raw, 'food_name')
    images = [_text(raw, 'food_meta', 'food_file')] if task == 'single' else []
    for language in languages:
        suffix = '' if language == 'zh' else '_en'
        if suffix and f'question{suffix}' not in raw:
            continue
        choices = _choices(raw, f'choices{suffix}')
        right = _answer(raw, len(choices))
        letter, text = _LETTERS[right], choices[right]
        lines = ['<image>'] * len(images) + [_text(raw, f'question{suffix}')]
        lines += [f'{a}. {choice}' for a, choice in zip(_LETTERS, choices, strict=False)]
        if answer != 'text':
            lines.append(_ASK_LETTER.get((task, language), _ASK_LETTER['single', language]))
        yield Item(
            task,
            language,
            _text(raw, 'question_id'),
            '\n'.join(lines),
            {'letter': letter, 'text': text, 'both': f'{letter}. {text}'}[answer],
            images,
            links=[f'dish {dish}', *images],
            extra={'shown_choices': choices, 'right': letter, 'dish': dish, 'question_type': raw.get('question_type')},
        )


def _read_multi(raw: dict[str, Any], languages: Sequence[str]) -> Iterator[Item]:
    """multi: the right one of some pictures."""
    images = raw.get('images')
    if not isinstance(images, list) or not 2 <= len(images) <= len(_LETTERS):
        raise DataError(f'`images` is {images!r}', expected=f'a list of 2 to {len(_LETTERS)} paths')
    if not all(isinstance(image, str) for image in images):
        raise DataError(f'`images` is {images!r}', expected='paths')
    letter = _LETTERS[_answer(raw, len(images))]
    pictures = [f'{a}: <image>' for a in _LETTERS[: len(images)]]
    for language in languages:
        key = 'question' if language == 'zh' else 'question_en'
        if language != 'zh' and key not in raw:
            continue
        question = '\n'.join([*pictures, _text(raw, key), _ASK_LETTER['multi', language]])
        extra = {'right': letter, 'question_type': raw.get('question_type')}
        yield Item('multi', language, _text(raw, 'question_id'), question, letter, images, list(images), extra)


def _read_name(raw: dict[str, Any], languages: Sequence[str], seed: int) -> Iterator[Item]:
    """name: which dish a picture shows."""
    dish, image = _text(raw, 'food_name'), _text(raw, 'food_meta', 'food_file')
    if 'zh' in languages:
        ask = random.Random(f'{seed} {image}').choice(_ASK_NAME)
        yield Item('name', 'zh', image, f'<image>\n{ask}', dish, [image], [f'dish {dish}', image], {'dish': dish})


def _text(raw: dict[str, Any], *path: str) -> str:
    """The text at ``raw[path[0]][path[1]]...``, stripped."""
    value: Any = raw
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    if not isinstance(value, str) or not value.strip():
        raise DataError(
            f'`{".".join(path)}` is {value!r}', expected='a text', fix=f'the keys of this record are {sorted(raw)}'
        )
    return value.strip()


def _choices(raw: dict[str, Any], key: str) -> list[str]:
    value = raw.get(key)
    fits = isinstance(value, list) and 2 <= len(value) <= len(_LETTERS)
    if not fits or not all(isinstance(v, str) and v.strip() for v in value):
        raise DataError(f'`{key}` is {value!r}', expected=f'2 to {len(_LETTERS)} texts')
    return [v.strip() for v in value]


def _answer(raw: dict[str, Any], count: int) -> int:
    """The number of the right choice, from 0; the release writes it as a text."""
    value = str(raw.get('answer')).strip()
    if not (value.isascii() and value.isdigit() and int(value) < count):
        raise DataError(f'`answer` is {raw.get("answer")!r}', expected=f'a number from 0 to {count - 1}')
    return int(value)
