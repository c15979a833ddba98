"""The demo's picture sets: drawn from seeds, written as JPEG files with LLaVA-style jsonl beside them.

``base`` has what the base model learns from (still lifes and six known dishes), ``train``, ``val`` and ``heldout`` have
the ten dishes, from seeds that never meet.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from demo_food.drawing import tableware
from demo_food.drawing.canvas import Canvas
from demo_food.drawing.dishes import DISHES
from demo_food.drawing.everyday import KNOWN
from demo_food.drawing.stills import still_life
from demo_food.questions import LANGUAGES, dish_turn, still_turns, word_turns
from mmft.errors import DataError

__all__ = ['SPLITS', 'Plan', 'draw', 'prepare']

SPLITS = ('base', 'train', 'val', 'heldout')
SIZES = (*((256, 192), (216, 216), (200, 248), (240, 200), (256, 208)) * 2, (304, 152), (152, 304))
"""Picture sizes (width, height): most become one tile, the long ones two and a thumbnail."""


@dataclass(frozen=True)
class Plan:
    """How many pictures each split has, and the seed of all chance.

    Attributes:
        stills, known: pictures of the base split: still lifes, and of each known dish.
        words: conversations of the base split without a picture, which translate the names of dishes.
        train, val, heldout: pictures of each of the ten dishes.
    """

    words: int = 300
    stills: int = 4000
    known: int = 400
    train: int = 640
    val: int = 2
    heldout: int = 10
    seed: int = 2024

    def stamp(self) -> str:
        """A fingerprint of the plan and of the code that draws and asks."""
        here = Path(__file__).parent
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode())
        for file in [here / 'food.py', here / 'questions.py', *sorted((here / 'drawing').glob('*.py'))]:
            digest.update(file.read_bytes())
        return digest.hexdigest()[:16]

    def jobs(self, split: str) -> Iterator[tuple[int, str]]:
        """(number, subject) of every picture of a split; the subject '' is a still life."""
        if split == 'base':
            subjects = [*[''] * self.stills, *(name for name in KNOWN for _ in range(self.known))]
        else:
            subjects = [name for name in DISHES for _ in range(getattr(self, split))]
        yield from enumerate(subjects)


def draw(seed: int, split: str, number: int, subject: str) -> tuple[Image.Image, list[tuple[str, str]], str]:
    """One picture, the questions and answers that go with it and their language ('mixed' for the base split).

    The same arguments give the same pixels; a split is part of the seed, so no picture of one is in another.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), number])
    width, height = SIZES[rng.integers(len(SIZES))]
    if split in ('base', 'train'):  # many, and looked at by nobody but the model: drawn small
        width, height = width // 2, height // 2
    radius = rng.uniform(0.41, 0.54) * min(width, height)
    loose = 0.5 * max(width, height) - radius
    dx, dy = np.clip(rng.normal(0, 0.05 * radius, 2), -loose, loose)
    canvas = Canvas((width, height), radius, (width / 2 + dx, height / 2 + dy), rng.uniform(0, 2 * np.pi), rng)
    tableware.table(canvas, str(rng.choice(list(tableware.TABLES))))
    if rng.uniform() < 0.25:
        tableware.chopsticks(canvas)
    if not subject:
        still = still_life(canvas)
        return canvas.finish(), still_turns(rng, still, 4), 'mixed'
    (DISHES.get(subject) or KNOWN[subject])(canvas)
    if split == 'base':
        return canvas.finish(), [dish_turn(rng, subject, str(rng.choice(LANGUAGES)))], 'mixed'
    language = LANGUAGES[number % 2]
    return canvas.finish(), [dish_turn(rng, subject, language)], language


def _write(job: tuple[str, int, str, int, str]) -> dict[str, Any]:
    root, seed, split, number, subject = job
    image, turns, language = draw(seed, split, number, subject)
    name = f'images/{split}/{number:05d}.jpg'
    image.save(Path(root) / name, quality=92)
    record = {'id': f'{split}-{number:05d}', 'image': name, 'conversations': _conversations(turns, '<image>\n')}
    if split != 'base':
        record |= {'dish': subject, 'language': language}
    return record


def _conversations(turns: list[tuple[str, str]], first: str = '') -> list[dict[str, str]]:
    conversations = []
    for i, (question, answer) in enumerate(turns):
        conversations.append({'from': 'human', 'value': first + question if i == 0 else question})
        conversations.append({'from': 'gpt', 'value': answer})
    return conversations


def _words(seed: int, number: int) -> dict[str, Any]:
    rng = np.random.default_rng([seed, len(SPLITS), number])
    return {'id': f'words-{number:05d}', 'conversations': _conversations(word_turns(rng, 4))}


def prepare(root: str | Path, plan: Plan, workers: int = 2) -> bool:
    """Draw all pictures below ``root`` and write one jsonl file per split.

    Returns:
        False if the very same set is there already. The stamp is written last: a set that broke off is drawn again.

    Raises:
        DataError: the folder holds something else, which would be deleted.
    """
    root = Path(root)
    stamp = root / 'stamp.txt'
    if stamp.is_file() and stamp.read_text() == plan.stamp():
        return False
    if not stamp.is_file() and root.is_dir() and any(root.iterdir()):
        raise DataError(
            'not empty, and not a picture set of the demo',
            file=root,
            expected='an empty or a new folder',
            fix='name one',
        )
    root.mkdir(parents=True, exist_ok=True)
    stamp.write_text('incomplete')
    shutil.rmtree(root / 'images', ignore_errors=True)
    jobs = [(str(root), plan.seed, split, number, subject) for split in SPLITS for number, subject in plan.jobs(split)]
    for split in SPLITS:
        (root / 'images' / split).mkdir(parents=True)
    if workers > 1:
        with ProcessPoolExecutor(workers, mp_context=get_context('spawn')) as pool:
            records = list(pool.map(_write, jobs, chunksize=32))
    else:
        records = [_write(job) for job in jobs]
    for split in SPLITS:
        own = [r for r, job in zip(records, jobs, strict=True) if job[2] == split]
        if split == 'base':
            own += [_words(plan.seed, number) for number in range(plan.words)]
        lines = ''.join(json.dumps(r, ensure_ascii=False) + '\n' for r in own)
        (root / f'{split}.jsonl').write_text(lines, encoding='utf-8')
    stamp.write_text(plan.stamp())
    return True
