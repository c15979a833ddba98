"""OK-VQA as chat records; ``mmft data okvqa`` is its command line.

OK-VQA (Marino et al., CVPR 2019, okvqa.allenai.org) asks questions about COCO pictures that the picture alone does not
answer, with ten answers each. Its files are those of VQA:
``OpenEnded_mscoco_train2014_questions.json`` (question, picture) and ``mscoco_train2014_annotations.json``
(``question_type``: ``one`` to ``ten`` and ``other``; of each answer ``answer``, as it is scored, and ``raw_answer``,
as it was written). ``val2014`` likewise.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmft.data.convert.output import Output, chat_record, progress, require
from mmft.data.convert.pictures import Pictures
from mmft.data.pictures.tilers import image_size
from mmft.data.records.annotations import read_json
from mmft.errors import ConfigError, DataError

__all__ = ['POLICIES', 'SHORT_ANSWER', 'Question', 'choose', 'convert']

SHORT_ANSWER = 'Answer the question using a single word or phrase.'
"""What asks LLaVA-1.5 for a short answer; trained and asked with the same words."""

POLICIES = {
    'most_common': 'the answer most people gave (of equals the first), one record a question',
    'all': 'each different answer once, as many records as there are',
    'every': 'each of the ten answers, so that an answer weighs as much as people gave it',
    'weighted': 'one record with an answer at random, the likelier the more people gave it',
}
"""What becomes of the ten answers of a training question."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its picture (relative to the image root) and its ten answers."""

    key: int
    text: str
    image: str
    kind: str
    answers: tuple[str, ...]


def convert(
    source: Path,
    images: Path,
    out: Path | None = None,
    splits: Sequence[str] = ('train', 'val'),
    types: Sequence[str] = (),
    policy: str = 'most_common',
    min_votes: int = 1,
    field: str = 'answer',
    suffix: str = SHORT_ANSWER,
    merge: bool = False,
    seed: int = 0,
    on_error: str = 'raise',
) -> dict[str, Any]:
    """Write ``train.jsonl``, ``val.jsonl`` and ``report.json``.

    Args:
        source: the folder with the question and annotation files.
        images: the COCO folder: ``train2014/COCO_train2014_*.jpg``, ``train2017/*.jpg``, or the files themselves.
        out: where to write; default: into ``source``.
        splits: of ``train`` and ``val``.
        types: only questions of these types, by code (``other``) or name (``Cooking and Food``); none: all.
        policy: see ``POLICIES``; of ``train``. A validation question is one record with the most common answer.
        min_votes: answers that fewer people gave are not used.
        field: ``answer`` or ``raw_answer``.
        suffix: a line after the question; '' for none.
        merge: all questions about a picture in one training conversation, with the suffix in the first only, as
            LLaVA-1.5's mix does. For policies that give one answer.
        seed: of ``weighted``.
        on_error: ``raise``, or ``skip`` to leave bad questions out and count them.

    Returns:
        What ``report.json`` holds.

    Raises:
        ConfigError: contradictory arguments, or a type that the files do not have.
        DataError: a file or picture is missing, or a record is bad.
    """
    if policy not in POLICIES:
        raise ConfigError(f'policy={policy!r}', expected=f'one of {list(POLICIES)}')
    if merge and policy in ('all', 'every'):
        raise ConfigError(f'merge with policy {policy!r}', expected='one answer a question: most_common or weighted')
    if field not in ('answer', 'raw_answer') or min_votes < 1:
        raise ConfigError(f'field={field!r}, min_votes={min_votes}', expected="'answer' or 'raw_answer', and from 1")
    pictures = Pictures(Path(images))
    ending = f'\n{suffix}' if suffix else ''
    with Output(source if out is None else out, pictures.root, ('train', 'val'), on_error) as made:
        for split in splits:
            talks: dict[str, list[tuple[Question, str]]] = {}
            for question in _read(Path(source), split, pictures, types, field, made):
                answers = choose(question, policy if split == 'train' else 'most_common', min_votes, seed)
                if not answers:
                    made.leave_out(f'{split}: no answer was given by {min_votes} people')
                for n, answer in enumerate(answers):
                    if merge and split == 'train':
                        talks.setdefault(question.image, []).append((question, answer))
                        continue
                    name = f'okvqa/{split}/{question.key}' + (f'#{n + 1}' if len(answers) > 1 else '')
                    record = chat_record(name, [question.image], [(question.text + ending, answer)], **_extra(question))
                    made.write(split, record, question.kind)
            for image, pairs in talks.items():
                turns = [(q.text + (ending if n == 0 else ''), answer) for n, (q, answer) in enumerate(pairs)]
                keys = [q.key for q, _ in pairs]
                name = f'okvqa/{split}/{keys[0]}'
                made.write(split, chat_record(name, [image], turns, question_ids=keys), 'conversations')
        made.notes.update(policy=policy, field=field, min_votes=min_votes, seed=seed, types=list(types))
        made.notes['follow_links'] = pictures.follow_links
    return made.report


def choose(question: Question, policy: str, min_votes: int = 1, seed: int = 0) -> list[str]:
    """The answers that a question is trained with (see ``POLICIES``), most given first.

    >>> question = Question(1, 'What?', 'a.jpg', 'other', ('race', 'race', 'ride', 'fun', 'fun', 'fun'))
    >>> choose(question, 'all'), choose(question, 'all', min_votes=2), choose(question, 'most_common')
    (['fun', 'race', 'ride'], ['fun', 'race'], ['fun'])
    """
    votes = {answer: n for answer, n in Counter(question.answers).most_common() if n >= min_votes}
    if not votes:
        return []
    if policy == 'most_common':
        return [next(iter(votes))]
    if policy == 'all':
        return list(votes)
    if policy == 'every':
        return [answer for answer, n in votes.items() for _ in range(n)]
    drawn = random.Random(f'{seed} {question.key}').choices(list(votes), weights=list(votes.values()))
    return drawn


def _extra(question: Question) -> dict[str, Any]:
    return {
        'question_id': question.key,
        'question_type': question.kind,
        'answers': list(question.answers),
    }


def _read(
    source: Path, split: str, pictures: Pictures, types: Sequence[str], field: str, made: Output
) -> Iterator[Question]:
    files = [source / f'OpenEnded_mscoco_{split}2014_questions.json', source / f'mscoco_{split}2014_annotations.json']
    for file in files:
        if not file.is_file():
            there = sorted(p.name for p in source.iterdir())[:12] if source.is_dir() else 'no such folder'
            raise DataError(
                f'not there; {source} holds {there}',
                file=file,
                expected='the question and the annotation file, unzipped',
                fix='download both from okvqa.allenai.org, or choose other splits',
            )
    questions, content = _list(files[0], 'questions'), read_json(files[1])
    annotations = _list(files[1], 'annotations', content)
    asked = _by_id(questions, files[0], made)
    names = content.get('question_types') if isinstance(content.get('question_types'), Mapping) else {}
    wanted = _wanted(types, Counter(str(a.get('question_type')) for a in annotations), names, files[1])
    answered = _by_id(annotations, files[1], made)
    for key in asked.keys() - answered.keys():
        with made.guard(files[0], record=f'question {key}', reason=f'{split}: bad records'):
            raise DataError('has no annotation', fix=f'is {files[1].name} of the same release, and complete?')
    for key, raw in progress(answered.items(), f'okvqa {split}', len(answered)):
        with made.guard(files[1], record=f'question {key}', reason=f'{split}: bad records'):
            kind = require(raw, 'question_type')
            if wanted is not None and kind not in wanted:
                made.leave_out(f'{split}: of another type')
                continue
            if key not in asked:
                raise DataError('is not among the questions', fix=f'is {files[0].name} of the same release?')
            yield _question(key, asked[key], raw, kind, split, pictures, field)


def _question(
    key: int, asked: Mapping[str, Any], raw: Mapping[str, Any], kind: str, split: str, pictures: Pictures, field: str
) -> Question:
    number = require(asked, 'image_id', kind=int)
    old, new = f'COCO_{split}2014_{number:012d}.jpg', f'{number:012d}.jpg'
    image = pictures.first([f'{split}2014/{old}', old, f'train2017/{new}', f'val2017/{new}', new])
    image_size(pictures.root / image)
    answers = require(raw, 'answers', kind=list)
    if not answers or not all(isinstance(answer, Mapping) for answer in answers):
        raise DataError(f'`answers` is {answers!r}'[:100], expected=f'a list of objects with `{field}`')
    answers = sorted(answers, key=lambda answer: answer.get('answer_id', 0))
    texts = [str(a.get(field) or '').strip() for a in answers]
    if field not in {key for answer in answers for key in answer}:
        raise DataError(
            f'the answers have no `{field}`',
            expected="OK-VQA's own annotation file",
            fix="VQA's files have `answer` only: choose --field answer",
        )
    return Question(key, require(asked, 'question'), image, kind, tuple(text for text in texts if text))


def _list(file: Path, key: str, content: Any = None) -> list[Any]:
    content = read_json(file) if content is None else content
    found = content.get(key) if isinstance(content, Mapping) else None
    if not isinstance(found, list) or not all(isinstance(item, Mapping) for item in found):
        keys = sorted(content) if isinstance(content, Mapping) else f'a {type(content).__name__}'
        raise DataError(
            f'no list `{key}` of objects in it but {keys}', file=file, fix='is it the right file of OK-VQA?'
        )
    return found


def _by_id(items: Sequence[Mapping[str, Any]], file: Path, made: Output) -> dict[int, Mapping[str, Any]]:
    found: dict[int, Mapping[str, Any]] = {}
    for n, item in enumerate(items):
        with made.guard(file, record=f'record {n}'):
            key = require(item, 'question_id', kind=int)
            if key in found:
                raise DataError(f'the question_id {key} stands there twice', fix='take one out')
            found[key] = item
    return found


def _wanted(types: Sequence[str], there: Counter[str], names: Mapping[str, str], file: Path) -> set[str] | None:
    if not types:
        return None
    codes = {str(name).lower(): code for code, name in names.items()} | {code.lower(): code for code in there}
    unknown = [kind for kind in types if codes.get(kind.lower()) not in there]
    if unknown:
        known = ', '.join(f'{code} ({names.get(code, "?")}): {count}' for code, count in sorted(there.items()))
        raise ConfigError(f'no question in {file} is of type {unknown}', expected=f'of {known}')
    return {codes[kind.lower()] for kind in types}
