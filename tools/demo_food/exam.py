"""Asks a model directory the held-out questions, as a user would: by ``mmft.load`` and ``model.chat``."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from demo_food.questions import ENGLISH

__all__ = ['Exam', 'Item', 'ask', 'grade', 'read_exam']


@dataclass(frozen=True)
class Item:
    """One held-out question."""

    image: Path
    dish: str
    language: str
    question: str
    expected: str


Exam = Sequence[Item]


def read_exam(ann_file: str | Path) -> list[Item]:
    """The questions of a ``heldout.jsonl``, whose pictures lie beside it."""
    ann_file = Path(ann_file)
    items = []
    for line in ann_file.read_text(encoding='utf-8').splitlines():
        record = json.loads(line)
        question, answer = (turn['value'] for turn in record['conversations'])
        items.append(
            Item(
                ann_file.parent / record['image'],
                record['dish'],
                record['language'],
                question.removeprefix('<image>\n'),
                answer,
            )
        )
    return items


def ask(directory: str | Path, exam: Exam) -> list[str]:
    """Greedy answers of the model in ``directory`` to every question of the exam, one conversation each."""
    import mmft

    model, encoder = mmft.load(directory, dtype='float32')
    return [model.chat(encoder, item.question, images=[item.image], max_new_tokens=24).strip() for item in exam]


def grade(exam: Exam, before: Sequence[str], after: Sequence[str]) -> dict[str, Any]:
    """Exact-match accuracies of two lists of answers, in all, per dish and per language, and the answers themselves."""
    rows = [
        {
            **asdict(item),
            'image': str(item.image),
            'before': old,
            'after': new,
            'right_before': old == item.expected,
            'right_after': new == item.expected,
        }
        for item, old, new in zip(exam, before, after, strict=True)
    ]
    return {
        **_accuracy(rows),
        'dishes': {
            dish: {'english': ENGLISH[dish], **_accuracy(own), 'said_before': _usual(own, 'before'),
                   'said_after': _usual(own, 'after')}
            for dish, own in _grouped(rows, 'dish').items()
        },
        'languages': {language: _accuracy(own) for language, own in _grouped(rows, 'language').items()},
        'answers': rows,
    }  # fmt: skip


def _accuracy(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        'before': round(sum(row['right_before'] for row in rows) / len(rows), 4),
        'after': round(sum(row['right_after'] for row in rows) / len(rows), 4),
        'n': len(rows),
    }


def _grouped(rows: Sequence[Mapping[str, Any]], key: str) -> dict[str, list[Mapping[str, Any]]]:
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row[key]].append(row)
    return groups


def _usual(rows: Sequence[Mapping[str, Any]], when: str) -> dict[str, str]:
    """The answer that came most often, in each language that was asked in."""
    grouped = _grouped(rows, 'language')
    return {name: Counter(row[when] for row in own).most_common(1)[0][0] for name, own in grouped.items()}
